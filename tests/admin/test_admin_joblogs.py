# SPDX-License-Identifier: Apache-2.0
"""Logs that are followed go on after a break with the next byte, and end where trying again is no use."""

from __future__ import annotations

import pytest

from flprov.admin.joblogs import read_logs
from flprov.errors import NotFound, ServerUnavailable
from flprov.wire import pb


def part(site: str, offset: int, data: bytes) -> pb.LogMessage:
    return pb.LogMessage(site=site, offset=offset, data=data)


class FakeLink:
    """Each call is answered as scripted: messages, and an error at its end or none."""

    def __init__(self, *calls) -> None:
        self.calls = list(calls)
        self.asked: list[dict[str, int]] = []

    def download(self, _method, request):
        self.asked.append(dict(request.offsets))
        messages, error = self.calls.pop(0)
        yield from messages
        if error is not None:
            raise error


def read(link, *, follow=True, retry=True):
    told: list[tuple[str, int]] = []
    parts = read_logs(
        link,
        pb.LogsRequest(job_id="j1", follow=follow),
        rest=lambda _seconds: None,
        on_retry=(lambda error, tries, _seconds: told.append((str(error), tries))) if retry else None,
    )
    found = []
    try:
        found.extend((one.site, one.offset, one.data) for one in parts)
    finally:
        link.told = told
    return found


def test_after_a_break_each_party_goes_on_where_it_was():
    gone = ServerUnavailable("gone")
    link = FakeLink(
        ([part("a", 0, b"123"), part("b", 5, b"4")], gone), ([], gone), ([part("a", 3, b"x")], None)
    )
    assert read(link) == [("a", 0, b"123"), ("b", 5, b"4"), ("a", 3, b"x")]
    assert link.asked == [{}, {"a": 3, "b": 6}, {"a": 3, "b": 6}]
    assert link.told == [("gone", 1), ("gone", 2)]


def test_after_a_break_it_is_still_the_log_of_the_job_that_was_the_last_one_then():
    request = pb.LogsRequest(job_id="last", follow=True)
    named = pb.LogMessage(job_id="j1", site="a", offset=0, data=b"1")
    link = FakeLink(([named], ServerUnavailable("gone")), ([], None))
    list(read_logs(link, request, rest=lambda _seconds: None, on_retry=lambda *_: None))
    assert request.job_id == "j1"


@pytest.mark.parametrize(
    ("error", "follow", "retry", "messages"),
    [
        (NotFound("no job"), True, True, [part("a", 0, b"1")]),
        (ServerUnavailable("gone"), False, True, [part("a", 0, b"1")]),
        (ServerUnavailable("gone"), True, False, [part("a", 0, b"1")]),
        (ServerUnavailable("never there"), True, True, []),
    ],
)
def test_what_time_cannot_heal_or_nobody_waits_for_is_the_end(error, follow, retry, messages):
    with pytest.raises(type(error), match=str(error)):
        read(FakeLink((messages, error)), follow=follow, retry=retry)
