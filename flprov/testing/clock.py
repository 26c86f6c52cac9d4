# SPDX-License-Identifier: Apache-2.0
"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """A `Clock` for tests: time passes in `advance` and `elapse`, and nowhere else."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._jumped = 0.0
        self._order = itertools.count()  # sleepers due at the same time wake in the order they came
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """The wall clock, aware, UTC."""
        return self._start + timedelta(seconds=self._elapsed + self._jumped)

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until that much time was made to pass; not positive: give way once."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        self._tell_waiters()
        await future

    def advance(self, seconds: float) -> None:
        """Let time pass at one stroke; whoever is due by then wakes when the loop runs next."""
        self._elapsed += seconds
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)

    async def elapse(self, seconds: float) -> None:
        """Let time pass from sleeper to sleeper, so that one who sleeps again is woken again."""
        end = self._elapsed + seconds
        await _settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.advance(self._sleepers[0][0] - self._elapsed)
            await _settle()
        self.advance(end - self._elapsed)
        await _settle()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; no time passes."""
        self._jumped += seconds

    @property
    def sleeping(self) -> int:
        """How many wait in `sleep`."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def wait_sleeping(self, count: int = 1) -> None:
        """Wait until at least `count` wait in `sleep`."""
        while self.sleeping < count:
            future = asyncio.get_running_loop().create_future()
            self._waiters.append((count, future))
            await future

    def _tell_waiters(self) -> None:
        sleeping = self.sleeping
        for count, future in self._waiters:
            if count <= sleeping and not future.done():
                future.set_result(None)
        self._waiters = [(count, future) for count, future in self._waiters if not future.done()]


async def _settle() -> None:
    """Let every task that can go on do so, some steps far."""
    for _ in range(20):
        await asyncio.sleep(0)
