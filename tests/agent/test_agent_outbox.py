# SPDX-License-Identifier: Apache-2.0
"""What a site still wants to say: bounded, in order, the newest word about each thing."""

from __future__ import annotations

import asyncio

import pytest

from flprov.agent.outbox import Outbox
from flprov.wire import pb


def beat(number: int) -> pb.FromSite:
    return pb.FromSite(heartbeat=pb.Heartbeat(vitals=b"%d" % number))


def progress(job: str, step: int) -> pb.FromSite:
    return pb.FromSite(progress=pb.Progress(job_id=job, step=step))


def answer(job: str, task: str, samples: int = 1) -> pb.FromSite:
    update = pb.UpdateMessage(samples=samples)
    return pb.FromSite(answer=pb.TaskAnswer(job_id=job, task_id=task, update=update))


async def everything(box: Outbox) -> list[pb.FromSite]:
    box.end()
    return [message async for message in box.drain()]


async def test_messages_leave_in_the_order_in_which_they_came():
    box = Outbox()
    said = [pb.FromSite(hello=pb.Hello()), answer("j1", "t1"), answer("j1", "t2"), beat(1)]
    for message in said:
        box.put(message)
    assert await everything(box) == said


async def test_of_beats_and_progress_only_the_newest_waits():
    box = Outbox()
    for number in range(1000):
        box.put(beat(number))
        box.put(progress("j1", number))
        box.put(progress("j2", number))
    assert len(box) == 3
    assert await everything(box) == [beat(999), progress("j1", 999), progress("j2", 999)]


async def test_an_answer_that_is_said_again_is_said_once():
    box = Outbox()
    for _ in range(5):
        box.put(answer("j1", "t1"))
    assert await everything(box) == [answer("j1", "t1")]


async def test_the_last_word_on_a_job_comes_after_what_was_said_before_it():
    """Ready, stopped, ready again: whoever hears only the end of it must not believe that it stopped."""
    box = Outbox()
    ready = pb.FromSite(deployed=pb.Deployed(job_id="j1", ready=True))
    stopped = pb.FromSite(stopped=pb.Stopped(job_id="j1", clean=True))
    for message in (ready, stopped, ready):
        box.put(message)
    assert await everything(box) == [stopped, ready]


@pytest.mark.parametrize("last", [beat(1), progress("j9", 1)])
async def test_a_full_box_takes_answers_and_drops_what_is_passing(last):
    box = Outbox(most=5)
    box.put(beat(0))
    for number in range(4):
        box.put(progress(f"j{number}", 1))
    for number in range(20):
        box.put(answer("j1", f"t{number}"))
    box.put(last)
    assert await everything(box) == [answer("j1", f"t{number}") for number in range(20)]


async def test_whoever_drains_waits_for_the_next_word():
    box = Outbox()
    drained = box.drain()
    waiting = asyncio.ensure_future(anext(drained))
    await asyncio.sleep(0)
    assert not waiting.done()
    box.put(beat(1))
    assert await waiting == beat(1)
