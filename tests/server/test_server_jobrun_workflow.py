# SPDX-License-Identifier: Apache-2.0
"""A workflow's process that is killed from outside is started again; what it did itself ends its job."""

from __future__ import annotations

import pytest
from server_parties import tensors
from server_world import broadcast, close_round, ready, train

from flprov.jobs import JobState
from flprov.workers import ExitRecord

TWO = ("site-1", "site-2")
KILLED = ExitRecord(reason="killed by SIGKILL", signal=9, outside=True)


async def again(world, running):
    """The next process is up, and has been told to go on."""
    running.workflow = await world.launcher.process()
    running.workflow.say(ready())
    return (await running.workflow.hears("start_workflow")).start_workflow


async def test_killed_workflow_goes_on_with_the_saved_state_and_the_updates_of_the_round(world):
    running = await train(world, *TWO)
    run = running.run
    for name in TWO:
        running[name].updates(run, "train/0/0")
        await running[name].hears("ack")
    state = tensors(7, name="state")
    running.workflow.say(close_round(0))
    running.workflow.say(broadcast(1))
    for name in TWO:
        await running[name].hears("closed")
        await running[name].hears("task")
    running["site-1"].updates(run, "train/1/0", samples=41)
    await running["site-1"].hears("ack")
    running.workflow.end(record=KILLED)
    start = await again(world, running)
    assert (start.round, start.state.inline != state) == (1, True)
    running.workflow.say(broadcast(1))
    answer = (await running.workflow.hears("answer")).answer
    assert (answer.site, answer.update.samples, answer.last) == ("site-1", 41, False)
    assert (await running["site-2"].hears("task")).task_id == "train/1/0"  # to be sure; it is done once
    assert run.record.state is JobState.RUNNING
    [row] = world.store.told("workflow.restart")
    assert row.reason == (
        "the workflow's process ended: killed by SIGKILL;"
        " started again from the saved state of round 2 (1 of 3)"
    )
    [cause] = run.record.causes
    assert (cause.party, cause.nature) == ("workflow", "transient")


async def test_update_that_comes_while_there_is_no_workflow_is_neither_lost_nor_called_late(world):
    running = await train(world, *TWO)
    running.workflow.end(record=KILLED)
    process = await world.launcher.process()
    running["site-1"].updates(running.run, "train/0/0")
    assert await running["site-1"].fence(running.run) == []  # no word: it is asked again
    process.say(ready())
    await process.hears("start_workflow")
    process.say(broadcast(0))
    assert (await running["site-1"].hears("task")).task_id == "train/0/0"
    assert running.run.record.late == {}


async def test_workflow_that_is_killed_again_and_again_fails_the_job(world):
    running = await train(world, *TWO)
    for number in range(3):
        running.workflow.end(record=KILLED)
        await again(world, running)
        assert running.run.record.restarts == number + 1
    running.workflow.end(record=KILLED)
    await world.reaches(running.run, JobState.FINISHING)
    assert "had been started again 3 times in round 1" in running.run.record.reason
    assert running.run.record.outcome == "failed"


async def test_restarts_are_counted_for_each_round_and_over_a_restart_of_the_server(world):
    running = await train(world, *TWO)
    for _ in range(3):
        running.workflow.end(record=KILLED)
        await again(world, running)
    await world.reboot()
    run = world.jobs.find("last")
    assert run.record.restarts == 3
    running.workflow = await world.launcher.process()
    running.workflow.say(ready())
    await running.workflow.hears("start_workflow")
    running.workflow.say(close_round(0))
    await running.workflow.hears("saved")
    assert run.record.restarts == 0


@pytest.mark.parametrize(
    "record",
    [
        ExitRecord(reason="exited with status 1", code=1),
        ExitRecord(reason="killed by SIGSEGV", signal=11),
        ExitRecord(reason="killed by the kernel: out of memory", signal=9, oom=True),
        ExitRecord(reason="stopped", signal=9, stopped=True),
        ExitRecord(reason="the job's shim failed: OSError", stopped=True),
    ],
)
async def test_what_a_workflow_does_itself_fails_its_job(world, record):
    running = await train(world, *TWO)
    running.workflow.end(record=record)
    await world.reaches(running.run, JobState.FINISHING)
    assert (running.run.record.outcome, len(world.launcher.started)) == ("failed", 1)


async def test_workflow_that_is_killed_while_sites_deploy_is_started_again(world):
    run = await world.run(targets=TWO)
    site = world.connect("site-1")
    run.choose(TWO)
    first = await world.launcher.process()
    await site.hears("deploy")
    first.end(record=KILLED)
    second = await world.launcher.process()
    assert second is not first
    assert run.record.state is JobState.DEPLOYING


async def test_round_that_a_full_disk_did_not_take_is_folded_again_by_the_next_process(world):
    running = await train(world, *TWO)
    run = running.run
    for name in TWO:
        running[name].updates(run, "train/0/0")
        await running[name].hears("ack")
        await running.workflow.hears("answer")
    world.store.full = True
    running.workflow.say(close_round(0))
    await world.until(run, lambda seen: "tried again until it works" in seen.record.reason)
    assert (run.record.round, len(run.rounds.updates())) == (0, 2)  # nothing of the round is forgotten
    world.store.full = False
    running.workflow.end(record=KILLED)
    start = await again(world, running)
    if start.round == 0:  # the disk may have had room again before the process was killed
        running.workflow.say(broadcast(0))
        assert {(await running.workflow.hears("answer")).answer.site for _ in TWO} == set(TWO)
    assert run.record.state is JobState.RUNNING


async def test_round_is_saved_once_the_disk_has_room_again(world):
    running = await train(world, *TWO)
    for name in TWO:
        running[name].updates(running.run, "train/0/0")
        await running.workflow.hears("answer")
    part = running.workflow.leave("state", tensors(*range(9), name="state"))
    world.store.full = True
    running.workflow.say(close_round(0, part))
    await world.until(running.run, lambda seen: "tried again until it works" in seen.record.reason)
    world.store.full = False
    assert (await running.workflow.hears("saved")).saved.round == 0  # its file was taken out once
    [closed] = world.jobs.rounds("0job")
    assert ([line.site for line in closed.contributors], closed.state.size) == (list(TWO), part.size)


async def test_end_of_a_job_is_written_down_once_the_disk_has_room_again(world):
    running = await train(world, *TWO)
    world.store.full = True
    running.workflow.end("exited with status 1")
    await world.until(running.run, lambda seen: "tried again until it works" in seen.record.reason)
    world.store.full = False
    await world.reaches(running.run, JobState.FINISHING)
    assert running.run.record.reason == "the workflow's process ended: exited with status 1"
