# SPDX-License-Identifier: Apache-2.0
"""An abort in every state: on disk before it is acknowledged, proven by each site, or the site is named."""

from __future__ import annotations

import asyncio
import errno

import pytest
from server_fakes import PATIENCE
from server_parties import ADA, LEO, payload, spec, tensors
from server_world import deploy, finished, train

from flprov.errors import LocalError, NotFound
from flprov.jobs import JobState
from flprov.server.jobs import events as ev
from flprov.workers import Leftovers

TWO = ("site-1", "site-2")


async def abort(world, run, who=ADA, reason="wrong learning rate"):
    async with asyncio.timeout(PATIENCE):
        await world.jobs.abort(run, who, reason)


async def test_abort_in_the_queue(world):
    run = await world.run(targets=TWO)
    await abort(world, run)
    await world.reaches(run, JobState.ABORTED)
    assert (run.record.reason, run.record.unconfirmed) == ("wrong learning rate", ())
    assert [row.who for row in world.store.told("job.abort")] == [ADA.uri]


async def test_abort_while_deploying(world):
    run = await world.run(targets=TWO)
    site = world.connect("site-1")
    run.choose(("site-1",))
    workflow = await world.launcher.process()
    await site.hears("deploy")
    await abort(world, run)
    stop = await site.hears("stop")
    assert (stop.job_id, stop.reason) == (run.record.id, "wrong learning rate")
    assert run.record.state is JobState.ABORTING
    site.stops(run)
    await world.reaches(run, JobState.ABORTED)
    assert workflow.stops == [0.0]


async def test_abort_while_a_site_trains(world):
    running = await train(world, *TWO, spec=spec(grace=2.5))
    await abort(world, running.run)
    assert world.stored(running.run)["state"] == "aborting"
    await running.workflow.hears("quit")
    for fake in running.sites.values():
        assert (await fake.hears("stop")).grace_seconds == 2.5
        assert running.run.record.state is JobState.ABORTING
        fake.stops(running.run)
    await world.reaches(running.run, JobState.ABORTED)
    assert running.workflow.stops == [2.5]
    assert world.stored(running.run)["finished_at"]


async def test_abort_while_finishing_wins_over_the_outcome(world):
    running = await deploy(world, *TWO)
    running.workflow.say(finished(model__safetensors=payload(tensors(1))))
    await world.reaches(running.run, JobState.FINISHING)
    await abort(world, running.run)
    for fake in running.sites.values():
        fake.stops(running.run)
    await world.reaches(running.run, JobState.ABORTED)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED, JobState.ABORTED])
@pytest.mark.parametrize("unconfirmed", [(), ("site-1",)])
async def test_abort_of_a_job_that_has_ended_says_so(world, state, unconfirmed):
    run = await world.run(state=state, unconfirmed=unconfirmed)
    with pytest.raises(NotFound, match=f"has ended .{state.value}.; there is nothing to abort"):
        await abort(world, run)
    assert run.record.state is state


async def test_abort_that_meets_the_end_of_its_job_is_answered(world):
    """The last word of the sites is in the inbox before it: the job ends, and nobody reads further."""
    running = await deploy(world, *TWO)
    running.workflow.say(finished())
    await world.reaches(running.run, JobState.FINISHING)
    await running.workflow.hears("quit")
    await running["site-1"].fence(running.run)
    for fake in running.sites.values():
        fake.stops(running.run)
    with pytest.raises(NotFound, match=r"has ended .completed."):
        await abort(world, running.run)


async def test_abort_of_a_job_whose_run_broke_is_answered(world, monkeypatch):
    run = await world.run(targets=TWO)

    async def broken(event):
        raise ZeroDivisionError

    monkeypatch.setattr(run, "_handle_or_fail", broken)
    for _ in range(2):
        with pytest.raises(LocalError, match="nobody drives job 0job any more"):
            await abort(world, run)


async def test_fault_of_ours_at_an_event_ends_the_job_and_answers_who_waits(world, monkeypatch):
    running = await train(world, *TWO)
    monkeypatch.setattr(running.run._ending, "abort", lambda event: 1 / 0)
    with pytest.raises(LocalError, match="internal error at the server; its log has the details"):
        await abort(world, running.run)
    await world.reaches(running.run, JobState.FINISHING)
    assert running.run.record.outcome == "failed"


async def test_second_abort_has_no_second_effect(world):
    running = await train(world, *TWO)
    await abort(world, running.run)
    await abort(world, running.run, who=LEO, reason="another reason")
    assert running.run.record.reason == "wrong learning rate"
    assert [row.who for row in world.store.told("job.abort")] == [ADA.uri]
    await running["site-1"].hears("stop")
    assert [m.WhichOneof("body") for m in await running["site-1"].fence(running.run)] == []


async def test_abort_without_a_reason_names_who(world):
    run = await world.run(targets=TWO)
    await abort(world, run, reason="")
    assert (run.record.reason, run.record.aborted_by) == ("aborted by ada", ADA.uri)


async def test_abort_works_on_a_full_disk_and_its_job_ends(world):
    running = await train(world, *TWO)
    world.store.full = True
    await abort(world, running.run)
    for fake in running.sites.values():
        fake.stops(running.run)
    await world.reaches(running.run, JobState.ABORTED)


async def test_abort_that_cannot_be_written_is_refused_and_changes_nothing(world):
    running = await train(world, *TWO)
    world.store.full = world.store.no_reserve = True
    with pytest.raises(LocalError, match="disk is full"):
        await abort(world, running.run)
    assert running.run.record.state is JobState.RUNNING
    world.store.full = False
    assert await running["site-1"].fence(running.run) == []


async def test_job_ends_although_its_workflow_could_not_be_stopped_at_first(world, monkeypatch):
    running = await train(world, *TWO)
    tried: list[str] = []

    async def stop(grace):
        tried.append("stop")
        raise OSError(errno.EMFILE, "Too many open files")

    def reap(folder):
        tried.append("reap")
        if len(tried) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return Leftovers(found=(), remaining=(), record=None)

    running.workflow.stop = stop
    monkeypatch.setattr("flprov.server.jobs.workflow.reap_leftovers", reap)
    await abort(world, running.run)
    for fake in running.sites.values():
        fake.stops(running.run)
    async with asyncio.timeout(PATIENCE):
        while running.run.record.state is not JobState.ABORTED:
            await world.clock.elapse(1)
    assert tried == ["stop", "reap", "reap"]


async def test_site_that_is_away_is_named_and_confirms_when_it_returns(world):
    running = await train(world, *TWO)
    running["site-2"].leave()
    await world.until(running.run, lambda seen: "site-2" in seen.record.reason)
    await abort(world, running.run)
    running["site-1"].stops(running.run)
    await world.reaches(running.run, JobState.ABORTED)
    assert running.run.record.unconfirmed == ("site-2",)
    back = world.connect("site-2")
    assert (await back.hears("stop")).job_id == running.run.record.id
    back.stops(running.run)
    await world.over(running.run)
    assert world.stored(running.run)["unconfirmed"] == []
    assert running.run.record.state is JobState.ABORTED


async def test_site_that_vanishes_while_it_stops_is_named(world):
    running = await train(world, *TWO)
    await abort(world, running.run)
    running["site-1"].stops(running.run)
    running["site-2"].leave()
    await world.reaches(running.run, JobState.ABORTED)
    assert running.run.record.unconfirmed == ("site-2",)


async def test_site_that_does_not_answer_is_named_after_its_time(world):
    running = await train(world, *TWO)
    await abort(world, running.run)
    running["site-1"].stops(running.run)
    await running["site-1"].hears("stop")
    await running["site-1"].fence(running.run)
    assert running.run.record.state is JobState.ABORTING
    world.clock.advance(10)
    running.run.tell(ev.LookAgain())
    await world.reaches(running.run, JobState.ABORTED)
    assert running.run.record.unconfirmed == ("site-2",)


async def test_site_that_cannot_kill_everything_is_named_with_its_reason(world):
    running = await train(world, *TWO)
    await abort(world, running.run)
    running["site-1"].stops(running.run)
    running["site-2"].stops(running.run, clean=False, reason="processes 7, 8 could not be killed")
    await world.reaches(running.run, JobState.ABORTED)
    assert running.run.record.unconfirmed == ("site-2",)
    assert running.run.sites.parts["site-2"].reason == "processes 7, 8 could not be killed"


async def test_aborted_job_leaves_no_updates_and_no_blobs_behind(world):
    running = await train(world, *TWO)
    part = running.workflow.leave("unused.safetensors", tensors(*range(9)))
    digest, _ = await world.blobs.adopt(running.workflow.order.folder / "out" / part.file, limit=1 << 20)
    running.run.rounds.note_sent("site-1", digest)
    running["site-1"].updates(running.run, "train/0/0")
    await running["site-1"].hears("ack")
    assert len(world.store.load("update")) == 1
    await abort(world, running.run)
    for fake in running.sites.values():
        fake.stops(running.run)
    await world.over(running.run)
    assert world.store.load("update") == {}
    assert world.blobs.digests() == {world.app.digest}


async def test_answers_after_an_abort_change_nothing(world):
    running = await train(world, *TWO)
    await abort(world, running.run)
    await running["site-1"].hears("stop")
    running["site-1"].updates(running.run, "train/0/0")
    assert (await running["site-1"].hears("ack")).refused.message == "the round went on without it"
    running["site-1"].fails(running.run, "train/0/0")
    running["site-1"].refuses(running.run)
    await running["site-1"].fence(running.run)
    assert (world.store.load("update"), running.run.record.causes, running.run.record.refusals) == (
        {},
        (),
        {},
    )


async def test_abort_while_the_workflow_is_being_started_gives_that_up_or_stops_it(world):
    run = await world.run(targets=TWO)
    run.choose(())
    await world.reaches(run, JobState.DEPLOYING)
    await abort(world, run)
    await world.reaches(run, JobState.ABORTED)
    assert all(process.stops for process in world.launcher.started)


async def test_abort_waits_for_no_start_of_the_workflow_that_never_ends(world):
    world.launcher.gate = asyncio.Event()
    run = await world.run(targets=TWO)
    run.choose(())
    await world.launcher.launching.wait()
    await abort(world, run)
    await world.reaches(run, JobState.ABORTED)
    assert world.launcher.started == []
    assert (run.record.reason, run.record.causes) == ("wrong learning rate", ())
