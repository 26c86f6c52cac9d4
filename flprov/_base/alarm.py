# SPDX-License-Identifier: Apache-2.0
"""Waiting for a moment that may be months away, or until somebody rings."""

from __future__ import annotations

import asyncio
from datetime import datetime

from flprov._base.clock import Clock

# The most that is slept at a stretch: a machine that was suspended, or whose wall clock was set, would
# oversleep the moment by as much.
_LONGEST = 3600.0


class Alarm:
    """One sleeper, who can be woken. Belongs to one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the sleeper now, or as soon as it wants to sleep."""
        self._rung.set()

    async def wait_until(self, moment: datetime) -> bool:
        """Wait for this moment; whether somebody rang before it came."""
        while not self._rung.is_set():
            left = (moment - self._clock.now()).total_seconds()
            if left <= 0:
                return False
            await sleep_unless(self._clock, min(left, _LONGEST), self._rung)
        self._rung.clear()
        return True


async def sleep_unless(clock: Clock, seconds: float, rung: asyncio.Event) -> None:
    """Sleep, or until the event is set."""
    either = [asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(rung.wait())]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiting in either:
            waiting.cancel()
        await asyncio.wait(either)
