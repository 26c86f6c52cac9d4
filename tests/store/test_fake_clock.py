# SPDX-License-Identifier: Apache-2.0
"""The fake clock, which other tests rely on."""

import asyncio

import pytest

from flprov._base import Clock
from flprov.testing.clock import START, FakeClock


async def test_time_stands_still_until_advanced():
    clock: Clock = FakeClock()
    assert (clock.now(), clock.monotonic()) == (START, 0)
    clock.advance(1.5)
    assert ((clock.now() - START).total_seconds(), clock.monotonic()) == (1.5, 1.5)


async def test_sleepers_wake_when_due_in_order():
    clock, woken = FakeClock(), []

    async def sleep(seconds):
        await clock.sleep(seconds)
        woken.append((seconds, clock.monotonic()))

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (3, 1, 2, 1)]
    await clock.wait_sleeping(4)
    await clock.elapse(0.5)
    assert woken == []
    await clock.elapse(1.5)
    assert woken == [(1, 1), (1, 1), (2, 2)]
    assert clock.sleeping == 1
    await clock.elapse(10)
    await asyncio.gather(*tasks)


async def test_elapse_wakes_one_who_sleeps_again_and_again():
    clock, beats = FakeClock(), []

    async def beat():
        while True:
            await clock.sleep(1)
            beats.append(clock.monotonic())

    task = asyncio.create_task(beat())
    await clock.elapse(3.5)
    assert beats == [1, 2, 3]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleeping == 0


async def test_jump_moves_the_wall_clock_alone():
    clock = FakeClock()
    clock.jump(-86400)
    assert ((clock.now() - START).total_seconds(), clock.monotonic()) == (-86400, 0)


async def test_sleep_of_nothing_returns():
    await asyncio.wait_for(FakeClock().sleep(0), 1)
