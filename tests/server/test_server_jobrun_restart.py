# SPDX-License-Identifier: Apache-2.0
"""After a SIGKILL of the server a job goes on in the state that was written down."""

from __future__ import annotations

import pytest
from server_parties import SITES, inline, inline_state, spec, tensors, update_record
from server_world import broadcast, close_round, ready, train

from flprov.jobs import JobState, Membership
from flprov.server.jobs import events as ev
from flprov.server.records import BlobRef, StateRef

TWO = ("site-1", "site-2")


async def restarted(world):
    """A new server over the same disk; the job's run."""
    await world.reboot()
    return world.jobs.find("last")


async def test_queued_job_is_queued_and_nobody_is_told(world):
    await world.put_job()
    run = await restarted(world)
    site = world.connect("site-1")
    assert await site.fence(run) == []
    assert (run.record.state, world.launcher.started) == (JobState.QUEUED, [])


async def test_deploying_job_deploys_again_what_had_been_ready(world):
    await world.put_job(targets=TWO, state=JobState.DEPLOYING, members=("site-1",))
    run = await restarted(world)
    workflow = await world.launcher.process()
    workflow.say(ready())
    one = world.connect("site-1")
    await one.deploys(run)
    await world.until(run, lambda seen: seen.record.reason == "waiting for 2 sites, 1 are ready")
    assert run.sites.lacking == ("site-2",)  # the scheduler gives it again
    run.choose(())  # what the scheduler does with a queued job has no effect on this one
    assert await one.fence(run) == []


@pytest.mark.parametrize("state", [JobState.DEPLOYING, JobState.RUNNING])
async def test_job_that_was_killed_after_the_refusal_that_ends_it_ends(world, state):
    """The refusal is on disk, the end is not: what is left of the sites is waited for no longer."""
    await world.put_job(targets=TWO, state=state, granted=TWO, refusals={"site-2": "its policy"})
    run = await restarted(world)
    await world.reaches(run, JobState.FAILED)
    assert run.record.reason == "site-2 refused the job: its policy (2 sites are needed, 1 are left)"


async def test_running_job_goes_on_in_its_round_with_the_saved_state(world):
    state = tensors(5, name="state")
    await world.put_job(targets=TWO, state=JobState.RUNNING, members=TWO, round=3, model=inline_state(state))
    run = await restarted(world)
    workflow = await world.launcher.process()
    workflow.say(ready())
    start = (await workflow.hears("start_workflow")).start_workflow
    assert (start.round, start.state.inline) == (3, state)
    workflow.say(broadcast(3))
    site = world.connect("site-1")
    await site.deploys(run)
    assert (await site.hears("task")).round == 3
    assert run.record.state is JobState.RUNNING


async def test_saved_state_that_is_a_blob_is_linked_into_the_workflows_folder(world):
    digest = await world.blobs.put(b"x" * 70_000)
    await world.put_job(
        targets=TWO, state=JobState.RUNNING, members=TWO, round=1, model=StateRef(digest=digest, size=70_000)
    )
    await restarted(world)
    workflow = await world.launcher.process()
    workflow.say(ready())
    start = (await workflow.hears("start_workflow")).start_workflow
    assert workflow.handed(start.state) == b"x" * 70_000


async def test_accepted_updates_are_not_asked_for_again(world):
    """What was acknowledged survives: the site may have dropped it."""
    known = update_record("site-1", "train/0/0", samples=77)
    await world.put_job(known=(known,), targets=TWO, state=JobState.RUNNING, members=TWO)
    run = await restarted(world)
    workflow = await world.launcher.process()
    workflow.say(ready())
    await workflow.hears("start_workflow")
    sites = {name: world.connect(name) for name in TWO}
    for fake in sites.values():
        await fake.deploys(run)
    workflow.say(broadcast())
    answer = (await workflow.hears("answer")).answer
    assert (answer.site, answer.update.samples) == ("site-1", 77)
    await sites["site-2"].hears("task")
    assert await sites["site-1"].fence(run) == []
    sites["site-1"].updates(run, "train/0/0")  # it says it again all the same
    assert not (await sites["site-1"].hears("ack")).HasField("refused")


async def test_update_of_before_the_restart_is_acknowledged_before_its_task_is_open_again(world):
    known = update_record("site-1", "train/0/0")
    await world.put_job(known=(known,), targets=TWO, state=JobState.RUNNING, members=TWO)
    run = await restarted(world)
    await world.launcher.process()
    site = world.connect("site-1")
    await site.deploys(run)
    site.updates(run, "train/0/0")
    assert not (await site.hears("ack")).HasField("refused")


async def test_known_update_that_nobody_asks_for_again_goes_with_its_round(world):
    """A workflow that does not repeat itself must not leave records for ever."""
    digest = await world.blobs.put(b"y" * 70_000)
    known = update_record("site-1", "train/0/9", tensors=BlobRef(digest=digest, size=70_000))
    await world.put_job(known=(known,), targets=TWO, state=JobState.RUNNING, members=TWO)
    await restarted(world)
    assert world.blobs.has(digest)
    workflow = await world.launcher.process()
    workflow.say(ready())
    await workflow.hears("start_workflow")
    workflow.say(close_round())
    await workflow.hears("saved")
    assert world.store.load("update") == {}
    await world.until(
        world.jobs.find("last"),
        lambda seen: not world.blobs.has(digest) or seen.rounds.gathers.newest is None,
    )
    assert not world.blobs.has(digest)


async def test_members_are_away_since_the_restart_and_not_since_ever(world):
    found = spec(sites=Membership(min=1, absence_seconds=60))
    await world.put_job(targets=TWO, spec=found, state=JobState.RUNNING, members=TWO)
    world.clock.advance(3600)
    run = await restarted(world)
    workflow = await world.launcher.process()
    workflow.say(ready())
    await workflow.hears("start_workflow")
    workflow.say(broadcast())
    await world.until(
        run, lambda seen: seen.record.reason.startswith("waiting up to 60 s for site-1, site-2")
    )
    assert run.rounds.gathers.newest.absent == {}


async def test_finishing_job_finishes_as_it_would_have(world):
    await world.put_job(
        targets=TWO, state=JobState.FINISHING, members=TWO, outcome="completed", results={"m": inline(b"1")}
    )
    run = await restarted(world)
    for name in TWO:  # which come back after their server
        site = world.connect(name)
        assert (await site.hears("stop")).job_id == run.record.id
        site.stops(run)
    await world.reaches(run, JobState.COMPLETED)
    assert run.record.unconfirmed == ()
    assert world.launcher.started == []


async def test_finishing_job_names_who_does_not_confirm(world):
    await world.put_job(
        targets=TWO, state=JobState.FINISHING, members=TWO, outcome="completed", results={"m": inline(b"1")}
    )
    run = await restarted(world)
    site = world.connect("site-1")
    assert (await site.hears("stop")).job_id == run.record.id
    world.clock.advance(12)
    run.tell(ev.LookAgain())
    await world.reaches(run, JobState.DEGRADED)
    assert run.record.unconfirmed == TWO  # nobody has proven that nothing runs
    assert run.record.reason == "site-1, site-2 could not confirm that nothing of it runs any more"
    site.stops(run)
    await site.fence(run)
    assert world.stored(run)["unconfirmed"] == ["site-2"]


async def test_aborting_job_is_aborted(world):
    await world.put_job(targets=TWO, state=JobState.ABORTING, members=TWO, reason="by ada")
    run = await restarted(world)
    await world.reaches(run, JobState.ABORTED)
    assert (run.record.reason, run.record.unconfirmed) == ("by ada", TWO)


@pytest.mark.parametrize("state", [JobState.ABORTED, JobState.FAILED, JobState.COMPLETED, JobState.DEGRADED])
async def test_ended_job_waits_only_for_the_sites_that_have_not_confirmed(world, state):
    await world.put_job(targets=TWO, state=state, members=TWO, unconfirmed=("site-2",))
    run = await restarted(world)
    innocent, other = world.connect("site-1"), world.connect("site-2")
    assert (await other.hears("stop")).job_id == run.record.id
    other.stops(run)
    await world.over(run)
    assert world.stored(run)["unconfirmed"] == []
    assert run.record.state is state
    [row] = world.store.told("job.stopped")
    assert (row.who, row.object) == ("site-2", "0job/site-2")
    assert innocent.session.waiting == 0


async def test_ended_job_that_all_confirmed_has_no_loop(world):
    await world.put_job(state=JobState.COMPLETED)
    run = await restarted(world)
    assert world.jobs._loops == {}
    world.connect("site-1")
    assert run._inbox.qsize() == 0


async def test_job_survives_a_restart_between_every_two_steps(world):
    """One job to its end, with a SIGKILL of the server after each thing that was acknowledged."""
    running = await train(world, *TWO)
    for number, name in enumerate(TWO):
        running[name].updates(running.run, "train/0/0", samples=number + 1)
        await running[name].hears("ack")
        run, sites, workflow = await back(world, round=0)
        running = running.__class__(world, run, sites, workflow)
    workflow.say(close_round())
    await workflow.hears("saved")
    await world.reboot()
    run = world.jobs.find("last")
    workflow = await world.launcher.process()
    workflow.say(ready())
    assert (await workflow.hears("start_workflow")).start_workflow.round == 1
    [closed] = world.jobs.rounds(run.record.id)
    assert [(line.site, line.samples) for line in closed.contributors] == [("site-1", 1), ("site-2", 2)]


async def back(world, *, round):  # noqa: A002 - the field's word
    """The server was started again, and everybody is where they were."""
    await world.reboot()
    run = world.jobs.find("last")
    workflow = await world.launcher.process()
    workflow.say(ready())
    await workflow.hears("start_workflow")
    sites = {name: world.connect(name) for name in TWO}
    for fake in sites.values():
        await fake.deploys(run)
    workflow.say(broadcast(round))
    taken = len(world.store.load("update"))
    for _ in range(taken):
        await workflow.hears("answer")
    for name in TWO[taken:]:
        await sites[name].hears("task")
    return run, sites, workflow


async def test_records_of_sites_that_left_the_project_do_not_stop_the_server(world):
    await world.put_job(targets=(*SITES, "site-9"))
    run = await restarted(world)
    world.jobs.wake()
    assert run.record.targets[-1] == "site-9"
