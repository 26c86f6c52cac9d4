# SPDX-License-Identifier: Apache-2.0
"""Numbers on their way to the server: a batch a second, each once, fewer when there are too many."""

from __future__ import annotations

import asyncio
import math

import pytest

from flprov.agent import points
from flprov.agent.points import PointSender
from flprov.errors import NotFound, ServerUnavailable
from flprov.testing.clock import FakeClock
from flprov.wire import pb

TASK = pb.TaskOrder(job_id="j", task_id="train/3/0", name="train", round=3)


class FakeBulk:
    """Keeps what it is sent, or fails."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, list[float]]] = []
        self.error: Exception | None = None
        self.took: list[pb.Point] = []

    async def send_points(self, job_id, source, first, batch):
        await asyncio.sleep(0)
        self.sent.append((first, [point.value for point in batch]))
        if self.error is not None:
            raise self.error
        self.took += batch


@pytest.fixture
def bulk() -> FakeBulk:
    return FakeBulk()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def sender(bulk, clock):
    made = PointSender(bulk, "j", clock)
    yield made
    await made.close()


def say(*values: float, name: str = "loss", step: int | None = None) -> list[pb.Progress]:
    return [pb.Progress(values={name: value}, step=step or 0, counted=step is None) for value in values]


async def test_what_comes_within_a_second_is_one_message(sender, bulk, clock):
    for said in say(3.0, 2.0, 1.0):
        sender.take(said, TASK)
    assert bulk.sent == []
    await clock.elapse(1.0)
    assert bulk.sent == [(0, [3.0, 2.0, 1.0])]
    first = bulk.took[0]
    assert (first.round, first.task, first.step) == (3, "train", 1)
    assert first.at == pytest.approx(clock.now().timestamp() - 1.0)


async def test_steps_are_those_of_the_job_or_counted_by_name_over_the_whole_job(sender, bulk, clock):
    for said in [*say(1.0, 2.0), *say(5.0, name="accuracy"), *say(3.0, step=70)]:
        sender.take(said, TASK)
    sender.take(say(4.0)[0], None)
    await clock.elapse(1.0)
    found = [(point.name, point.step) for point in bulk.took]
    assert found == [("loss", 1), ("loss", 2), ("accuracy", 1), ("loss", 70), ("loss", 4)]


async def test_a_batch_that_may_have_arrived_is_sent_again_under_its_numbers(sender, bulk, clock):
    bulk.error = ServerUnavailable("no line")
    sender.take(say(3.0)[0], TASK)
    await clock.elapse(1.0)
    sender.take(say(2.0)[0], TASK)
    bulk.error = None
    for _ in range(60):
        await clock.elapse(1.0)
    assert bulk.sent == [(0, [3.0]), (0, [3.0]), (1, [2.0])]


async def test_too_many_points_are_thinned_out_evenly_and_the_newest_stays(sender, bulk, clock, monkeypatch):
    monkeypatch.setattr(points, "MOST_WAITING", 10)
    for number in range(6):
        sender.take(say(number)[0], TASK)
        sender.take(say(number, name="accuracy")[0], TASK)
    await sender.flush()
    told = {name: [p.value for p in bulk.took if p.name == name] for name in ("loss", "accuracy")}
    assert told == {"loss": [1.0, 3.0, 5.0], "accuracy": [0.0, 2.0, 4.0, 5.0]}  # the last came after it


async def test_a_flood_keeps_a_bounded_number_waiting(sender, bulk):
    for number in range(50_000):
        sender.take(pb.Progress(values={"loss": number}, counted=True), TASK)
    assert len(sender._waiting) <= points.MOST_WAITING + 1


async def test_names_without_end_and_numbers_that_are_none_are_passed_over(sender, bulk):
    for number in range(2_000):
        sender.take(pb.Progress(values={f"m{number}": 1.0}), TASK)
    sender.take(pb.Progress(values={"m0": math.nan, "": 1.0, "x" * 300: 1.0}), TASK)
    await sender.flush()
    assert len(bulk.took) == 500


async def test_a_server_that_takes_none_is_asked_once(sender, bulk, clock):
    bulk.error = NotFound("an older server has no such call")
    for said in say(3.0, 2.0):
        sender.take(said, TASK)
        await clock.elapse(1.0)
    assert len(bulk.sent) == 1
    await sender.flush()
    assert len(bulk.sent) == 1


async def test_the_end_of_a_job_brings_the_rest_and_does_not_wait_for_a_line_that_is_gone(sender, bulk):
    for said in say(*range(1200)):
        sender.take(said, TASK)
    await sender.flush()
    assert [len(values) for _, values in bulk.sent] == [500, 500, 200]
    bulk.error = ServerUnavailable("no line")
    sender.take(say(1.0)[0], TASK)
    await sender.flush()
