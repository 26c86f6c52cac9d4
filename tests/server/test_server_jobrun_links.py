# SPDX-License-Identifier: Apache-2.0
"""A disk that refuses for a moment what is handed to the workflow: nothing is lost, and nothing twice."""

from __future__ import annotations

import pytest
from server_parties import spec, update_record
from server_world import Running, World, broadcast, close_round, deploy, ready, train

from flprov.errors import LocalError
from flprov.jobs import JobState, Membership
from flprov.server.records import BlobRef, StateRef

TWO = ("site-1", "site-2")
SIZE = 100_000


class Disk:
    """Refuses some of the links that are asked of it, counted from 1."""

    def __init__(self, world: World, *refused: int) -> None:
        self.link = world.blobs.link
        self.refused = set(refused)
        self.asked = 0
        world.blobs.link = self

    def __call__(self, digest, target):
        self.asked += 1
        if self.asked in self.refused:
            raise LocalError(f"blob {digest[:12]} cannot be linked: the disk is full")
        self.link(digest, target)


async def large(world: World) -> BlobRef:
    return BlobRef(digest=await world.blobs.put(bytes(SIZE)), size=SIZE)


def inputs(running: Running) -> int:
    """How many files lie before the workflow."""
    return len(list((running.workflow.order.folder / "in").iterdir()))


@pytest.mark.parametrize("refused", [1, 2])
async def test_update_that_cannot_be_handed_in_is_tried_again_and_reaches_the_workflow_once(world, refused):
    running = await train(world, *TWO)
    run, workflow, ref = running.run, running.workflow, await large(world)
    disk = Disk(world, refused)
    for name in TWO:
        running[name].updates(run, "train/0/0", tensors=ref)
    heard = [(await workflow.hears("answer")).answer for _ in TWO]
    assert [(answer.site, answer.last) for answer in heard] == [("site-1", False), ("site-2", True)]
    assert all(workflow.handed(answer.update.tensors) == bytes(SIZE) for answer in heard)
    assert (disk.asked, inputs(running)) == (3, 2)
    workflow.say(close_round())
    await workflow.hears("saved")
    assert [line.site for line in world.jobs.rounds("0job")[0].contributors] == list(TWO)
    assert inputs(running) == 0


async def test_known_updates_are_handed_in_all_or_none(world):
    ref = await large(world)
    known = tuple(update_record(name, "train/0/0", tensors=ref) for name in TWO)
    running = await deploy(world, *TWO, known=known)
    disk = Disk(world, 2)
    running.workflow.say(broadcast())
    heard = [(await running.workflow.hears("answer")).answer for _ in TWO]
    assert [(answer.site, answer.last) for answer in heard] == [("site-1", False), ("site-2", True)]
    assert (disk.asked, inputs(running)) == (4, 2)
    assert running.run.record.state is JobState.RUNNING


async def test_workflow_begins_once_the_state_that_it_goes_on_with_is_handed_in(world):
    part = await large(world)
    state = StateRef(digest=part.digest, size=SIZE, model=part)
    disk = Disk(world, 2)
    run = await world.run(targets=TWO, model=state)
    run.choose(TWO)
    sites = {name: world.connect(name) for name in TWO}
    for fake in sites.values():
        await fake.deploys(run)
    workflow = await world.launcher.process()
    workflow.say(ready())
    start = (await workflow.hears("start_workflow")).start_workflow
    assert workflow.handed(start.state) == workflow.handed(start.model) == bytes(SIZE)
    assert (disk.asked, inputs(Running(world, run, sites, workflow))) == (4, 2)


async def test_update_that_was_taken_is_not_called_late_because_another_one_is_tried_again(world):
    """Each is of a task of its own: the round of the one is saved while the other waits for the disk."""
    running = await deploy(world, *TWO, spec=spec(sites=Membership(min=1)))
    run, workflow, ref = running.run, running.workflow, await large(world)
    for name in TWO:
        workflow.say(broadcast(task_id=name, sites=(name,)))
        await running[name].hears("task")
    disk = Disk(world, *range(2, 1000))
    for name in TWO:
        running[name].updates(run, name, tensors=ref)
    assert (await workflow.hears("answer")).answer.site == "site-1"
    workflow.say(close_round())
    await workflow.hears("saved")
    disk.refused.clear()
    await running["site-2"].hears("closed")
    assert (await running["site-2"].hears("ack")).late
    await running["site-1"].hears("closed")
    acks = [message.ack for message in await running["site-1"].fence(run) if message.HasField("ack")]
    assert not any(ack.late for ack in acks)
    assert run.record.late == {"site-2": 1}
