# SPDX-License-Identifier: Apache-2.0
"""A site's answers: on disk until their round is saved at the server. For their blobs see test_agent_held."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from flprov._base import SystemClock
from flprov.agent.answers import Answers
from flprov.errors import StateDamaged
from flprov.store import MemoryStore, Put, open_store
from flprov.wire import pb

DIGEST, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def answers(store):
    return Answers(store)


def update(job_id: str, task_id: str, digest: str) -> pb.TaskAnswer:
    tensors = pb.Payload(digest=digest, size=3)
    return pb.TaskAnswer(
        job_id=job_id, task_id=task_id, update=pb.UpdateMessage(kind="full", tensors=tensors, samples=7)
    )


def failure(job_id: str, task_id: str) -> pb.TaskAnswer:
    return pb.TaskAnswer(
        job_id=job_id, task_id=task_id, failure=pb.Failure(code="job-failed", message="it broke")
    )


async def test_an_answer_is_found_by_its_job_and_task(answers):
    await answers.keep(failure("j1", "0/train/1"), round=0)
    assert answers.get("j1", "0/train/1") == failure("j1", "0/train/1")
    assert answers.get("j1", "1/train/1") is None
    assert answers.get("j2", "0/train/1") is None


async def test_the_answers_of_a_job_are_not_those_of_one_whose_id_begins_alike(answers):
    await answers.keep(failure("j1", "a"), round=0)
    await answers.keep(failure("j12", "a"), round=0)
    assert [answer.job_id for answer in answers.of("j1")] == ["j1"]
    await answers.drop("j1")
    assert answers.get("j12", "a") is not None


async def test_answers_outlive_the_agent(answers, store):
    await answers.keep(update("j1", "a", DIGEST), round=2)
    again = Answers(store)
    again.load()
    assert again.of("j1") == [update("j1", "a", DIGEST)]
    again.let_go("j1", up_to=1)
    assert again.get("j1", "a") is not None
    again.let_go("j1", up_to=2)
    assert again.get("j1", "a") is None


async def test_a_saved_round_drops_its_answers_and_those_before(answers):
    for number in range(3):
        await answers.keep(failure("j1", f"{number}/train"), round=number)
    answers.let_go("j1", up_to=1)
    assert [answer.task_id for answer in answers.of("j1")] == ["2/train"]


async def test_a_dropped_answer_is_gone_after_a_restart_too(answers, store):
    await answers.keep(failure("j1", "a"), round=0)
    await answers.drop("j1")
    again = Answers(store)
    again.load()
    assert again.of("j1") == []


async def test_answers_of_a_saved_round_leave_the_disk_with_the_next_one_that_is_kept(answers, store):
    await answers.keep(failure("j1", "0/train"), round=0)
    assert answers.let_go("j1", up_to=0) == set()
    assert answers.of("j1") == []
    assert list(store.load("answer")) == ["j1/0/train"]
    await answers.keep(failure("j1", "1/train"), round=1)
    assert list(store.load("answer")) == ["j1/1/train"]


async def test_a_job_that_ends_leaves_no_answer_on_the_disk(answers, store):
    await answers.keep(failure("j1", "0/train"), round=0)
    await answers.keep(failure("j2", "0/train"), round=0)
    answers.let_go("j1", up_to=0)
    answers.let_go("j2", up_to=0)
    await answers.drop("j1")
    assert list(store.load("answer")) == ["j2/0/train"]


async def test_it_names_the_blobs_that_are_still_to_be_sent(answers):
    await answers.keep(update("j1", "a", DIGEST), round=0)
    await answers.keep(update("j2", "a", OTHER), round=0)
    await answers.keep(failure("j1", "b"), round=0)
    assert answers.blobs() == {DIGEST, OTHER}
    assert await answers.drop("j1") == {DIGEST}
    assert answers.blobs() == {OTHER}


async def test_two_who_drop_the_same_answers_at_the_same_time_both_succeed(answers):
    """A round is closed while its job is stopped: the stop must not fail of it."""
    await answers.keep(update("j1", "a", DIGEST), round=0)
    await answers.keep(update("j1", "b", OTHER), round=1)
    stopping = asyncio.create_task(answers.drop("j1"))
    await asyncio.sleep(0)
    closed = answers.let_go("j1", up_to=0)
    assert closed | await stopping == {DIGEST, OTHER}
    assert answers.of("j1") == []


async def test_dropping_nothing_writes_nothing(answers, store):
    assert answers.let_go("j1", up_to=7) == set()
    assert store.head == 0


async def test_what_was_answered_is_in_the_site_s_own_record(answers, store):
    await answers.keep(update("j1", "a", "ab" * 32), round=0)
    await answers.keep(failure("j1", "b"), round=0)
    rows = [(log.row.object, log.row.outcome, log.row.reason) for log in store.rows()]
    assert rows == [("j1/a", "ok", ""), ("j1/b", "failed", "it broke")]


@pytest.mark.parametrize("value", ["zz", "ffff", 3])
async def test_a_damaged_answer_is_refused_by_name(store, value):
    await store.commit([Put("answer", "j1/a", {"answer": value, "round": 0})], None)
    with pytest.raises(StateDamaged, match="j1/a"):
        Answers(store).load()


async def test_an_answer_whose_blob_a_power_cut_took_is_not_said_again(store, answers):
    await answers.keep(update("j1", "t1", DIGEST), round=0)
    await answers.keep(update("j1", "t2", OTHER), round=0)
    await answers.keep(failure("j1", "t3"), round=0)
    again = Answers(store)
    again.load()
    await again.forget_lost(lambda digest: digest == OTHER, {"j1"})
    assert [answer.task_id for answer in again.of("j1")] == ["t2", "t3"]
    assert set(store.load("answer")) == {"j1/t2", "j1/t3"}


@pytest.mark.parametrize("cancelled", [True, False])
async def test_an_answer_that_is_being_kept_goes_with_its_job(tmp_path, cancelled):
    """A job is aborted while an answer is on its way to the disk."""
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(tmp_path / "state", clock=SystemClock())
        stack.push_async_callback(store.close)
        answers = Answers(store)
        keeping = asyncio.create_task(answers.keep(update("j1", "a", DIGEST), round=0))
        await asyncio.sleep(0)
        if cancelled:
            keeping.cancel()
        assert await answers.drop("j1") == {DIGEST}
        await asyncio.wait([keeping])
        assert answers.of("j1") == []
        assert store.load("answer") == {}


async def test_an_answer_of_a_job_that_is_not_here_is_forgotten_at_the_start(store, answers):
    await answers.keep(update("j1", "a", DIGEST), round=0)
    await answers.keep(update("j2", "a", DIGEST), round=0)
    again = Answers(store)
    again.load()
    await again.forget_lost(lambda _: True, {"j2"})
    assert set(store.load("answer")) == {"j2/a"}
    assert again.blobs() == {DIGEST}
