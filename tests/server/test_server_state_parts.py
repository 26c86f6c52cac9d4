# SPDX-License-Identifier: Apache-2.0
"""A saved state in parts: its model and its best one are blobs that tasks and results name as well."""

import pytest
from server_parties import ADA, payload, tensors
from server_world import broadcast, close_round, finished, train

from flprov._base import from_document, to_document
from flprov.blobs import digest_of
from flprov.jobs import JobState
from flprov.server.jobs.checkpoints import Retention
from flprov.server.records import BlobRef, StateRef
from flprov.wire import pb

TWO = ("site-1", "site-2")
LARGE = 500_000  # bytes; travels as a file


class Worker:
    """What a workflow's process does with files."""

    def __init__(self, running):
        self.running = running
        self.out = running.workflow.order.folder / "out"
        self.made = 0

    def file(self, letter):
        self.made += 1
        (self.out / f"{self.made}.safetensors").write_bytes(letter * LARGE)
        return pb.Payload(file=f"{self.made}.safetensors", size=LARGE)

    def frame(self, number, model, best=None):
        """What commits a round."""
        frame = close_round(number, payload(tensors(number, name="rest")))
        frame.close.model.CopyFrom(model)
        if best is not None:
            frame.close.best.CopyFrom(best)
        return frame

    async def close(self, number, model, best=None):
        """Commit a round, and hear the digest of its model."""
        self.running.workflow.say(self.frame(number, model, best))
        return (await self.running.workflow.hears("saved")).saved.model

    async def answered(self, number):
        """All sites answer the open task."""
        for fake in self.running.sites.values():
            fake.updates(self.running.run, f"train/{number}/0")
            await self.running.workflow.hears("answer")

    async def ask(self, number, model):
        self.running.workflow.say(broadcast(number, model=model))
        orders = [await task_of(fake) for fake in self.running.sites.values()]
        return orders[0]


async def task_of(fake):
    """The next task that a site is sent; what else it is told is passed over."""
    while (message := await fake.next()).WhichOneof("body") != "task":
        pass
    return message.task


@pytest.fixture
async def worker(world):
    found = Worker(await train(world, *TWO))
    await found.answered(0)
    return found


def named(digest):
    return pb.Payload(digest=digest, size=LARGE)


async def test_model_of_a_state_is_the_one_that_the_next_task_names(world, worker):
    digest = await worker.close(0, worker.file(b"m"))
    assert world.blobs.path(digest).read_bytes() == b"m" * LARGE
    order = await worker.ask(1, named(digest))
    assert order.model.digest == digest
    state = worker.running.run.record.model
    assert (state.model, state.best, state.inline != "") == (BlobRef(digest=digest, size=LARGE), None, True)


async def test_best_model_and_results_are_the_same_blobs(world, worker):
    run = worker.running.run
    model = worker.file(b"m")
    first = await worker.close(0, model, model)  # the same file, named twice
    assert run.record.model.model == run.record.model.best
    await worker.ask(1, named(first))
    await worker.answered(1)
    second = await worker.close(1, worker.file(b"n"), named(first))
    parts = {"model__safetensors": named(second), "best__safetensors": named(first)}
    worker.running.workflow.say(finished(**parts))
    await world.until(run, lambda seen: seen.record.results)
    assert {name: ref.digest for name, ref in run.record.results.items()} == {
        "model.safetensors": second,
        "best.safetensors": first,
    }
    assert world.blobs.digests() >= {first, second}


async def test_best_model_outlives_the_checkpoint_that_it_was_the_model_of(world, kit):
    world.checkpoints = Retention(most=1)
    world.boot()
    world.jobs.load()
    worker = Worker(await train(world, *TWO))
    await worker.answered(0)
    model = worker.file(b"m")
    first = await worker.close(0, model, model)
    for number in (1, 2):
        await worker.ask(number, named(first))
        await worker.answered(number)
        last = await worker.close(number, worker.file(b"%d" % number), named(first))
    rounds = world.jobs.rounds(worker.running.run.record.id)
    assert [record.state is not None for record in rounds] == [False, False, True]
    assert world.blobs.digests() == {world.app.digest, first, last}


@pytest.mark.parametrize("which", ["another job's", "its app", "one that it made before the last round"])
async def test_blob_that_is_not_in_the_saved_state_cannot_be_named(world, worker, which):
    """Or else a workflow could read any blob of the server whose name it knows."""
    old = await worker.close(0, worker.file(b"m"))
    await worker.ask(1, named(old))
    await worker.answered(1)
    await worker.close(1, worker.file(b"n"))
    digest = {
        "another job's": await world.blobs.put(b"x" * LARGE),
        "its app": world.app.digest,
        "one that it made before the last round": old,
    }[which]
    worker.running.workflow.say(broadcast(2, model=named(digest)))
    run = await world.reaches(worker.running.run, JobState.FINISHING)
    assert "which it has not made" in run.record.causes[0].message


async def test_after_a_restart_of_the_server_the_parts_are_handed_in(world, worker):
    model = worker.file(b"m")
    digest = await worker.close(0, model, model)
    await world.reboot()
    run = world.jobs.find(worker.running.run.record.id)
    sites = {name: world.connect(name) for name in TWO}
    workflow = await world.launcher.process()
    for fake in sites.values():
        await fake.deploys(run)
    workflow.say(pb.FromWorker(ready=pb.Ready()))
    start = (await workflow.hears("start_workflow")).start_workflow
    folder = workflow.order.folder / "in"
    assert {(folder / part.file).read_bytes()[:1] for part in (start.model, start.best)} == {b"m"}
    workflow.say(broadcast(1, model=named(digest)))
    assert (await task_of(sites["site-1"])).model.digest == digest


async def test_deleted_job_takes_the_parts_of_its_states_along(world, worker):
    model = worker.file(b"m")
    digest = await worker.close(0, model, model)
    run = worker.running.run
    await world.jobs.abort(run, ADA, "")
    await world.reaches(run, JobState.ABORTING)
    for fake in worker.running.sites.values():
        fake.stops(run)
    await world.over(run)
    assert world.blobs.has(digest)  # a checkpoint, to clone from
    await world.jobs.delete(run, ADA.uri, "")
    assert not world.blobs.has(digest)


def test_records_of_an_earlier_version_are_read():
    old = {"inline": "", "digest": "a" * 64, "size": 9}
    assert from_document(StateRef, old).digests == {"a" * 64}
    new = StateRef(inline="00", size=1, model=BlobRef(digest="b" * 64, size=2), best=BlobRef(inline="00"))
    assert from_document(StateRef, to_document(new)) == new
    assert new.digests == {"b" * 64}


async def test_another_job_does_not_collect_a_model_that_is_about_to_be_recorded(world, worker, monkeypatch):
    """Two jobs of one app, seed and data have the same models."""
    digest, settle = digest_of(b"m" * LARGE), world.blobs.settle
    await world.blobs.put(b"m" * LARGE)

    async def settle_and_collect(one):
        await settle(one)
        world.jobs.collect({digest})  # the other job's round is saved just now

    monkeypatch.setattr(world.blobs, "settle", settle_and_collect)
    await worker.close(0, worker.file(b"m"))
    assert worker.running.run.record.model.model.digest == digest
    assert world.blobs.has(digest)
