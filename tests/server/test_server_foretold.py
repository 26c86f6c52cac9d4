# SPDX-License-Identifier: Apache-2.0
"""Sites are told which model comes next while the round is still on its way to the disk."""

import pytest
from server_world import broadcast, train
from test_server_state_parts import LARGE, TWO, Worker, named

from flprov.errors import LocalError


@pytest.fixture
async def worker(world):
    """Round 0 is saved, and round 1 asks all sites for an update of its model."""
    found = Worker(await train(world, *TWO))
    await found.answered(0)
    found.saved = await found.close(0, found.file(b"m"))
    return found


async def told(worker):
    """The models that each site has been told of."""
    run = worker.running.run
    found = [await fake.fence(run) for fake in worker.running.sites.values()]
    return [[said.upcoming.model for said in heard if said.HasField("upcoming")] for heard in found]


async def second_round(worker, **task):
    worker.running.workflow.say(broadcast(1, **({"model": named(worker.saved), "rounds": 3} | task)))
    await told(worker)  # the tasks, and what came before
    await worker.answered(1)


async def test_sites_hear_of_the_model_that_comes_next(worker):
    await second_round(worker)
    digest = await worker.close(1, worker.file(b"n"))
    assert await told(worker) == [[named(digest)]] * 2
    for site in TWO:
        assert digest in worker.running.run.rounds.given(site)


async def test_sites_hear_of_it_before_it_is_on_the_disk(world, worker, monkeypatch):
    await second_round(worker)
    synced = []

    async def settle(digest):
        synced.append(digest)
        raise LocalError("the disk is full")

    monkeypatch.setattr(world.blobs, "settle", settle)
    frame = worker.frame(1, worker.file(b"n"))
    worker.running.workflow.say(frame)
    for fake in worker.running.sites.values():
        while not (await fake.next()).HasField("upcoming"):
            pass
    assert len(synced) == 1
    assert worker.running.run.record.round == 1  # and the round is not over before it is


@pytest.mark.parametrize(
    "task",
    [
        {"rounds": 2},  # there is no next round
        {"sites": ("site-1",)},  # who is asked next is not known
        {"model": None},  # it has sent something else than what it had saved
    ],
    ids=str,
)
async def test_nothing_is_foretold_that_is_not_probable(worker, task):
    if "model" in task:
        task = {"model": worker.file(b"other")}
    worker.running.workflow.say(broadcast(1, **({"model": named(worker.saved), "rounds": 3} | task)))
    await told(worker)
    for name in task.get("sites", TWO):
        worker.running.sites[name].updates(worker.running.run, "train/1/0")
        await worker.running.workflow.hears("answer")
    await worker.close(1, worker.file(b"n"))
    assert await told(worker) == [[], []]


async def test_what_was_foretold_counts_until_the_next_round_is_saved(worker):
    await second_round(worker)
    digest = await worker.close(1, worker.file(b"n"))
    await worker.ask(2, worker.file(b"another"))
    await worker.answered(2)
    await worker.close(2, worker.file(b"o"))
    assert digest not in worker.running.run.rounds.given("site-1")
    assert worker.running.run.record.model.model.size == LARGE
