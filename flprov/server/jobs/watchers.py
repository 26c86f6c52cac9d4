# SPDX-License-Identifier: Apache-2.0
"""Who watches jobs: told of each change at once, and of mere progress at most once a second."""

from __future__ import annotations

import asyncio

from flprov._base import Clock

_PACE = 1.0  # seconds between a site's step and the message that shows it, with all that came meanwhile


class Watchers:
    """One event per job that somebody watches; nothing is kept for a job that nobody does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next: dict[str, asyncio.Event] = {}
        self._soon: dict[str, asyncio.Task[None]] = {}

    def next(self, job_id: str) -> asyncio.Event:
        """Set when there is more to see of this job than there is now."""
        return self._next.setdefault(job_id, asyncio.Event())

    def tell(self, job_id: str) -> None:
        """The job has changed."""
        soon = self._soon.pop(job_id, None)
        if soon is not None:
            soon.cancel()
        self._wake(job_id)

    def tell_soon(self, job_id: str) -> None:
        """A site of the job has moved."""
        if job_id in self._next and job_id not in self._soon:
            self._soon[job_id] = asyncio.create_task(self._tell_later(job_id), name=f"watchers of {job_id}")

    async def _tell_later(self, job_id: str) -> None:
        await self._clock.sleep(_PACE)
        del self._soon[job_id]
        self._wake(job_id)

    def _wake(self, job_id: str) -> None:
        event = self._next.pop(job_id, None)
        if event is not None:
            event.set()

    async def close(self) -> None:
        """Tell nobody any more."""
        soon, self._soon = list(self._soon.values()), {}
        for task in soon:
            task.cancel()
        await asyncio.gather(*soon, return_exceptions=True)
