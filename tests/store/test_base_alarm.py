# SPDX-License-Identifier: Apache-2.0
"""An alarm: a moment that may be months away, or somebody who rings."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from flprov._base import Alarm
from flprov.testing.clock import START, FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def waiting(alarm: Alarm, **span: float) -> asyncio.Task[bool]:
    task = asyncio.create_task(alarm.wait_until(START + timedelta(**span)))
    await asyncio.sleep(0)
    return task


async def test_it_wakes_at_the_moment_and_not_before(clock):
    task = await waiting(Alarm(clock), days=30)
    await clock.elapse(30 * 86_400 - 1)
    assert not task.done()
    await clock.elapse(1)
    assert task.result() is False


async def test_a_moment_that_has_passed_is_not_waited_for(clock):
    assert await Alarm(clock).wait_until(START - timedelta(days=1)) is False


async def test_whoever_rings_wakes_it_at_once_and_once(clock):
    alarm = Alarm(clock)
    task = await waiting(alarm, days=30)
    alarm.ring()
    await clock.elapse(0)
    assert task.result() is True
    again = await waiting(alarm, days=30)
    await clock.elapse(60)
    assert not again.done()
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_a_ring_before_it_sleeps_is_not_lost_and_several_are_one(clock):
    alarm = Alarm(clock)
    alarm.ring()
    alarm.ring()
    assert await alarm.wait_until(START + timedelta(days=1)) is True
    task = await waiting(alarm, seconds=5)
    await clock.elapse(5)
    assert task.result() is False


async def test_a_wall_clock_that_was_set_is_seen_within_the_hour(clock):
    task = await waiting(Alarm(clock), days=30)
    clock.jump(31 * 86_400)
    await clock.elapse(3600)
    assert task.result() is False
    early = await waiting(Alarm(clock), days=32)
    clock.jump(-86_400)
    await clock.elapse(86_400)
    assert not early.done()
    await clock.elapse(86_400)
    assert early.done()


async def test_a_sleeper_that_is_cancelled_leaves_nobody_behind(clock):
    task = await waiting(Alarm(clock), days=30)
    await clock.elapse(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert clock.sleeping == 0
