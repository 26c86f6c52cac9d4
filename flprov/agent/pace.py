# SPDX-License-Identifier: Apache-2.0
"""How much may be on the way at once, so that what is urgent never waits long behind it.

Control and bulk are two connections over one line, and what a bulk transfer has put into the buffers of
the line (the kernel's, a router's: megabytes, minutes at 64 kbit/s) comes before an abort. So no more is
on the way than the line carries in about half a second, measured as LEDBAT does (RFC 6817): by how much
longer the other side's word takes than it took at best.
"""

from __future__ import annotations

import asyncio
import math

from flprov._base import Clock

LEAST = 4 << 10  # bytes; half a second at 64 kbit/s
MOST = 32 << 20  # enough for 300 MB/s with an answer after 100 ms
FIRST = 8 << 10
DELAY = 0.5  # seconds that we may add to what the line needs anyway
_LONGEST_WAY = 1.0  # seconds; a line that answers no sooner was full before we came
_TICK = 1e-4  # seconds; nothing on a line is quicker
_IDLE = 1.0  # seconds without anything on the way after which the line may be another one


class Pace:
    """The window of one direction, shared by all transfers in it.

    Attributes:
        window: bytes that may be on the way.
    """

    def __init__(self, clock: Clock) -> None:
        self.window = FIRST
        self._clock = clock
        self._under_way = 0
        self._best = math.inf  # seconds from sending to the other side's word
        self._cut = -math.inf  # when the window shrank last
        self._quiet_since = -math.inf
        self._turn = asyncio.Lock()  # one after the other, in order
        self._freed = asyncio.Event()

    @property
    def piece(self) -> int:
        """How many bytes to send or to ask for in one go, so that some of these are on the way."""
        return max(LEAST, self.window // 4)

    async def take(self, size: int) -> float:
        """Wait until `size` bytes may be sent; the moment, for `confirm`."""
        async with self._turn:
            while self._under_way and self._under_way + size > self.window:
                self._freed.clear()
                await self._freed.wait()
        now = self._clock.monotonic()
        if not self._under_way and now - self._quiet_since > _IDLE:
            self._begin()
        self._under_way += size
        return now

    def confirm(self, size: int, since: float) -> None:
        """The other side has these bytes; learn from how long that took."""
        now = self._clock.monotonic()
        took = now - since
        self._best = min(self._best, took, _LONGEST_WAY)
        bearable = self._best + DELAY
        if took <= self._best + DELAY / 2:
            carried = size / max(took, _TICK) * DELAY / 4  # in so short a time, at least
            self.window = min(MOST, max(self.window + size, int(carried)))
        elif took > bearable and since >= self._cut:  # once per round trip
            self.window = max(LEAST, int(self.window * bearable / took))
            self._cut = now
        self.release(size)

    def release(self, size: int) -> None:
        """These bytes are not on the way any more, or never were."""
        self._under_way -= size
        if not self._under_way:
            self._quiet_since = self._clock.monotonic()
        self._freed.set()

    def _begin(self) -> None:
        """As a new connection does: nothing is known of the line."""
        self.window, self._best, self._cut = FIRST, math.inf, -math.inf
