# SPDX-License-Identifier: Apache-2.0
"""Waiting for the end of a job, also over a link that breaks and a server that is started again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from flprov._base import Clock, backoff
from flprov.errors import FlprovError, Nature, ServerUnavailable, TimedOut
from flprov.jobs import JobState
from flprov.wire.documents import JobDocument

ENDED = frozenset(state.value for state in JobState if state.terminal)

OnRetry = Callable[[FlprovError, int, float], None]  # why, which try follows, in how many seconds
Watch = Callable[[float | None], Iterator[JobDocument]]


def wait_for_end(
    watch: Watch,
    *,
    clock: Clock,
    rest: Callable[[float], None],
    timeout: float | None,
    on_change: Callable[[JobDocument], None],
    on_retry: OnRetry | None,
    job_id: str,
) -> JobDocument:
    """The job once it has ended.

    Args:
        watch: begins a watch of at most so many seconds.
        clock: measures the timeout.
        rest: waits between two tries.
        timeout: seconds, over all tries.
        on_change: told the job at first and after each change.
        on_retry: told of each try; None: a watch that breaks off is the end.
        job_id: for the words.

    Raises:
        TimedOut: it had not ended in time.
        FlprovError: what time cannot heal, or a server that has not answered at all.
    """
    waits, tries, began, seen = backoff(first=0.5), 0, clock.monotonic(), False
    while True:
        left = math.inf if timeout is None else max(0.0, timeout - (clock.monotonic() - began))
        try:
            for job in watch(None if timeout is None else left):
                seen, waits, tries = True, backoff(first=0.5), 0
                on_change(job)
                if job.state in ENDED:
                    return job
            raise ServerUnavailable(
                f"the server ended the watch of job {job_id}", hint=f"flprov job wait {job_id}"
            )
        except TimedOut as error:
            if timeout is None:
                raise
            what = f"job {job_id} has not ended" if seen else "the server has not answered"
            raise TimedOut(f"{what} within {timeout:.3g} s", hint=f"flprov job wait {job_id}") from error
        except FlprovError as error:
            if on_retry is None or error.nature is not Nature.TRANSIENT or not seen:
                raise
            tries += 1
            seconds = min(next(waits), left)
            on_retry(error, tries, seconds)
        rest(seconds)
