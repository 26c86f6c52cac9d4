# SPDX-License-Identifier: Apache-2.0
"""Waiting for the end of a job over a link that breaks: what time heals is tried again, and said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from flprov.admin.waiting import wait_for_end
from flprov.errors import FlprovError, NotFound, PermissionRefused, RemoteError, ServerUnavailable, TimedOut
from flprov.testing.clock import FakeClock
from flprov.wire.documents import JobDocument

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(state: str) -> JobDocument:
    return JobDocument(
        id="j1",
        name="heart",
        app="x",
        state=state,
        reason="",
        submitted_at=NOW,
        started_at=None,
        finished_at=None,
        submitted_by="leo",
        sites=(),
    )


RUNS, DONE = job("running"), job("completed")
GONE = ServerUnavailable("nobody answers")


class Waiting:
    """Watches that bring these, one list after the other."""

    def __init__(self, *watches: list[JobDocument | FlprovError]) -> None:
        self.watches = list(watches)
        self.clock = FakeClock(start=NOW)
        self.seen: list[str] = []
        self.retries: list[tuple[str, int]] = []
        self.limits: list[float | None] = []

    def watch(self, seconds: float | None) -> Iterator[JobDocument]:
        self.limits.append(seconds)
        for item in self.watches.pop(0):
            if isinstance(item, FlprovError):
                raise item
            yield item

    def wait(self, *, timeout: float | None = None, retry: bool = True) -> JobDocument:
        return wait_for_end(
            self.watch,
            clock=self.clock,
            rest=self.clock.advance,
            timeout=timeout,
            on_change=lambda found: self.seen.append(found.state),
            on_retry=(lambda error, tries, _seconds: self.retries.append((str(error), tries)))
            if retry
            else None,
            job_id="j1",
        )


def test_a_watch_that_breaks_off_is_begun_again_and_each_try_is_told():
    waiting = Waiting([RUNS, GONE], [GONE], [RUNS], [DONE])
    assert waiting.wait() == DONE
    early = "the server ended the watch of job j1"
    assert waiting.retries == [("nobody answers", 1), ("nobody answers", 2), (early, 1)]
    assert waiting.seen == ["running", "running", "completed"]


@pytest.mark.parametrize("error", [NotFound("deleted"), PermissionRefused("no more"), TimedOut("too long")])
def test_what_time_cannot_heal_ends_the_wait(error):
    waiting = Waiting([RUNS, error], [DONE])
    with pytest.raises(type(error)):
        waiting.wait()
    assert waiting.retries == []


def test_a_server_that_never_answered_is_not_waited_for():
    with pytest.raises(ServerUnavailable):
        Waiting([GONE], [DONE]).wait()


def test_without_anybody_to_tell_the_first_break_is_the_end():
    with pytest.raises(ServerUnavailable, match="ended the watch of job j1") as refused:
        Waiting([RUNS], [DONE]).wait(retry=False)
    assert refused.value.hint == "flprov job wait j1"


def test_the_time_that_was_given_is_for_all_tries_together():
    waiting = Waiting([RUNS, RemoteError("its disk is full")], [GONE], [TimedOut("over")])
    with pytest.raises(TimedOut, match="job j1 has not ended within 10 s") as refused:
        waiting.wait(timeout=10.0)
    assert refused.value.hint == "flprov job wait j1"
    assert waiting.limits[0] == 10.0
    first, second, third = (limit for limit in waiting.limits if limit is not None)
    assert first > second > third >= 0


def test_a_server_that_does_not_answer_in_time_is_said_to_be_that():
    with pytest.raises(TimedOut, match="the server has not answered within 10 s"):
        Waiting([TimedOut("over")]).wait(timeout=10.0)
