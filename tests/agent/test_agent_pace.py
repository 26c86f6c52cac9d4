# SPDX-License-Identifier: Apache-2.0
"""What may be on the way: little on a slow line, and all that a quick one carries."""

from __future__ import annotations

import asyncio

import pytest
from agent_parties import NOW

from flprov.agent.pace import FIRST, LEAST, MOST, Pace
from flprov.testing.clock import FakeClock

SLOW = 8000  # bytes a second, as 64 kbit/s are


@pytest.fixture
def clock():
    return FakeClock(start=NOW)


@pytest.fixture
def pace(clock):
    return Pace(clock)


class Line:
    """Carries bytes at a rate, one after the other; the word that they are there needs `way` seconds."""

    def __init__(self, clock: FakeClock, rate: float, way: float = 0.0) -> None:
        self.clock, self.rate, self.way = clock, rate, way
        self.free = 0.0  # when it has carried everything
        self.longest = 0.0  # that anything waited on it

    def send(self, size: int) -> float:
        now = self.clock.monotonic()
        self.longest = max(self.longest, self.free - now)
        self.free = max(self.free, now) + size / self.rate
        return self.free + self.way


async def carry(pace: Pace, line: Line, total: int) -> float:
    """Send so many bytes as a sender does that always fills its window; the seconds that it took."""
    began, under_way = line.clock.monotonic(), []
    while total > 0 or under_way:
        on_way = sum(size for _, size, _ in under_way)
        size = min(pace.piece, total)
        if size and (not under_way or on_way + size <= pace.window):
            since = await pace.take(size)
            under_way.append((line.send(size), size, since))
            total -= size
            continue
        arrived, size, since = under_way.pop(0)
        line.clock.advance(max(0.0, arrived - line.clock.monotonic()))
        pace.confirm(size, since)
    return line.clock.monotonic() - began


async def test_on_a_slow_line_nothing_urgent_waits_for_long(pace, clock):
    line = Line(clock, SLOW, way=0.05)
    await carry(pace, line, FIRST)
    line.longest = 0.0
    seconds = await carry(pace, line, 400_000)
    assert line.longest < 1.5
    assert seconds < 1.3 * 400_000 / SLOW
    assert LEAST <= pace.window <= 2 * SLOW


async def test_a_quick_line_is_filled(pace, clock):
    line = Line(clock, 500e6, way=0.002)
    assert await carry(pace, line, 500 << 20) < 1.2
    assert pace.window > 500e6 * 0.002


async def test_a_line_that_is_long_is_not_taken_for_one_that_is_full(pace, clock):
    line = Line(clock, 10e6, way=0.6)
    await carry(pace, line, 50 << 20)
    assert pace.window >= 10e6 * 0.6


async def test_a_line_that_gets_slow_is_noticed(pace, clock):
    await carry(pace, Line(clock, 1e6, way=0.01), 2 << 20)
    before = pace.window
    await carry(pace, Line(clock, SLOW, way=0.01), 8 * before)
    assert pace.window <= 2 * SLOW


async def test_after_a_pause_nothing_is_known(pace, clock):
    await carry(pace, Line(clock, 500e6), 50 << 20)
    assert pace.window > FIRST
    clock.advance(5.0)
    since = await pace.take(10)
    assert pace.window == FIRST
    pace.confirm(10, since)


async def test_who_comes_later_waits_for_room_and_may_give_up(pace):
    await pace.take(FIRST)
    second, third = (asyncio.create_task(pace.take(10)) for _ in range(2))
    await asyncio.sleep(0)
    assert not second.done()
    second.cancel()
    pace.release(FIRST)
    await third
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_piece_larger_than_the_window_goes_alone(pace):
    since = await pace.take(MOST * 2)
    other = asyncio.create_task(pace.take(1))
    await asyncio.sleep(0)
    assert not other.done()
    pace.confirm(MOST * 2, since)
    await other
