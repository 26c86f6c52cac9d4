# SPDX-License-Identifier: Apache-2.0
"""A job from the queue to its end, event by event, with a workflow and sites that follow a script."""

from __future__ import annotations

import json

import pytest
from server_parties import inline, payload, spec, tensors
from server_world import broadcast, close_round, deploy, finished, ready, train

from flprov.errors import ConfinementRefused, JobFailed, ProtocolError
from flprov.jobs import JobState, Membership
from flprov.wire import pb


async def test_job_goes_through_its_states_and_each_is_a_row_of_the_log(world):
    running = await train(world, "site-1", "site-2")
    run, workflow = running.run, running.workflow
    for name in ("site-1", "site-2"):
        running[name].updates(run, "train/0/0")
        assert not (await running[name].hears("ack")).HasField("refused")
    first = (await workflow.hears("answer")).answer
    assert (first.site, first.last, workflow.handed(first.update.tensors)) == ("site-1", False, tensors(1, 2))
    assert (await workflow.hears("answer")).answer.last
    workflow.say(close_round(loss=0.25))
    assert (await workflow.hears("saved")).saved.round == 0
    workflow.say(finished(model__safetensors=payload(tensors(3))))
    for fake in running.sites.values():
        assert (await fake.hears("closed")).round == 0
        await fake.hears("stop")
        fake.stops(run)
    await world.reaches(run, JobState.COMPLETED)
    states = [entry.row.outcome for entry in world.store.rows() if entry.row.object == run.record.id]
    assert states == ["deploying", "running", "finishing", "completed"]
    assert run.record.results == {"model.safetensors": inline(tensors(3))}
    assert (run.record.unconfirmed, run.record.model) == ((), None)
    await world.over(run)


async def test_workflow_is_told_the_job_and_the_sites_exactly_what_the_person_signed(world):
    run = await world.run(
        targets=("site-1", "site-2"), submission='{"a": 1}', signature="abcd", chain="PEM", spec=spec()
    )
    site = world.connect("site-1")
    run.choose(("site-1",))
    told = await site.deploys(run)
    assert (told.submission, told.signature, told.chain) == (b'{"a": 1}', b"\xab\xcd", b"PEM")
    assert (told.job_id, told.app_size) == (run.record.id, len(world.app.data))
    workflow = await world.launcher.process()
    workflow.say(ready())
    run.sites.granted.add("site-2")
    await world.until(run, lambda seen: "site-1" in seen.record.members)
    await world.connect("site-2").deploys(run)  # comes again, granted now
    start = (await workflow.hears("start_workflow")).start_workflow
    assert json.loads(start.spec)["name"] == "heart"
    assert (list(start.sites), start.round, start.HasField("state")) == (["site-1", "site-2"], 0, False)


async def test_job_begins_when_a_quorum_is_ready_and_the_workflow_too(world):
    run = await world.run(spec=spec(sites=Membership(min=1, required=("site-2",))))
    one, two = world.connect("site-1"), world.connect("site-2")
    run.choose(("site-1", "site-2"))
    workflow = await world.launcher.process()
    await one.deploys(run)
    await world.until(run, lambda seen: seen.record.reason == "waiting for site-2")
    await two.deploys(run)
    await world.until(run, lambda seen: seen.record.reason == "starting the workflow")
    assert run.record.state is JobState.DEPLOYING
    workflow.say(ready())
    await world.reaches(run, JobState.RUNNING)


async def test_round_boundary_is_one_transaction(world):
    running = await train(world, "site-1", "site-2")
    run, workflow = running.run, running.workflow
    for fake in running.sites.values():
        fake.updates(run, "train/0/0")
        await workflow.hears("answer")
        await fake.hears("ack")
    assert set(world.store.load("update")) == {f"0job/train/0/0/{name}" for name in running.sites}
    state = tensors(7, name="state")
    workflow.say(close_round(0, payload(state), loss=0.5))
    await workflow.hears("saved")
    stored = world.stored(run)
    assert (stored["round"], bytes.fromhex(stored["model"]["inline"])) == (1, state)
    assert world.store.load("update") == {}
    closed = world.store.get("round", "0job/000000")
    assert [line["site"] for line in closed["contributors"]] == ["site-1", "site-2"]
    assert closed["metrics"] == {"loss": 0.5}
    [row] = world.store.told("round.close")
    assert row.data == {"sites": 2}


async def test_update_is_acknowledged_once_it_is_on_disk(world):
    running = await train(world, "site-1", "site-2")
    site, workflow = running["site-1"], running.workflow
    site.updates(running.run, "train/0/0", samples=33)
    await site.hears("ack")
    stored = world.store.get("update", "0job/train/0/0/site-1")
    assert stored["samples"] == 33
    [row] = world.store.told("update.accept")
    assert (row.who, row.object, row.data) == ("site-1", "0job/train/0/0/site-1", {"samples": 33})
    answer = (await workflow.hears("answer")).answer.update
    assert (answer.samples, answer.HasField("weight"), dict(answer.metrics)) == (33, False, {"loss": 0.5})


async def test_disk_that_is_full_at_an_update_puts_it_off_and_says_so(world):
    running = await train(world, "site-1", "site-2")
    world.store.full = True
    running["site-1"].updates(running.run, "train/0/0")
    await world.until(running.run, lambda seen: "disk is full; tried again until" in seen.record.reason)
    assert running.run.record.state is JobState.RUNNING  # nothing has changed on disk, so nothing is shown
    assert world.store.load("update") == {}
    world.store.full = False
    running["site-2"].updates(running.run, "train/0/0")
    await running["site-2"].hears("ack")
    assert not (await running["site-1"].hears("ack")).HasField("refused")  # nobody had to say it again
    assert len(world.store.load("update")) == 2


async def test_task_for_some_sites_goes_to_those_alone(world):
    running = await deploy(world, "site-1", "site-2")
    running.workflow.say(broadcast(sites=("site-2",)))
    order = await running["site-2"].hears("task")
    assert (order.task_id, order.expects, order.model.inline) == ("train/0/0", "full,diff", tensors(0, 0))
    assert await running["site-1"].fence(running.run) == []


async def test_task_for_a_stranger_fails_the_job(world):
    running = await deploy(world, "site-1", "site-2")
    running.workflow.say(broadcast(sites=("site-3",)))
    await world.reaches(running.run, JobState.FINISHING)
    assert running.run.record.reason == "the workflow sent a task to site-3, which is not a site of this job"


async def test_failed_task_is_named_to_the_workflow_and_in_the_causes(world):
    running = await train(world, "site-1", "site-2", "site-3")
    running["site-2"].fails(running.run, "train/0/0", "CUDA out of memory")
    answer = (await running.workflow.hears("answer")).answer
    assert (answer.site, answer.absent.message) == ("site-2", "CUDA out of memory")
    [cause] = running.run.record.causes
    assert (cause.party, cause.code, cause.message) == ("site-2", "job-failed", "CUDA out of memory")
    [row] = world.store.told("task.fail")
    assert (row.object, row.outcome, row.reason) == ("0job/train/0/0/site-2", "failed", "CUDA out of memory")


async def test_failures_below_the_quorum_fail_the_job_with_the_first_cause_first(world):
    running = await train(world, "site-1", "site-2")
    running["site-2"].fails(running.run, "train/0/0", "boom")
    await running.workflow.hears("answer")
    await world.reaches(running.run, JobState.FINISHING)
    assert running.run.record.outcome == "failed"
    assert running.run.record.reason == "1 of 2 needed sites are left; site-2: boom"
    assert [cause.message for cause in running.run.record.causes] == ["boom"]


async def test_round_without_one_of_its_sites_makes_the_job_degraded(world):
    running = await train(world, "site-1", "site-2", "site-3")
    run, workflow = running.run, running.workflow
    running["site-3"].fails(run, "train/0/0", "boom")
    for name in ("site-1", "site-2"):
        running[name].updates(run, "train/0/0")
    for _ in running.sites:
        await workflow.hears("answer")
    workflow.say(close_round())
    await workflow.hears("saved")
    workflow.say(finished())
    await world.reaches(run, JobState.FINISHING)
    for fake in running.sites.values():
        fake.stops(run)
    await world.reaches(run, JobState.DEGRADED)
    [missing] = world.jobs.rounds(run.record.id)[0].absent
    assert (missing.site, missing.reason) == ("site-3", "boom")


async def test_workflow_that_fails_ends_the_job_with_its_own_words(world):
    running = await train(world, "site-1", "site-2")
    failure = pb.Failure(code="job-failed", message="ValueError: no", traceback="Traceback ...")
    running.workflow.say(pb.FromWorker(failure=failure))
    await world.reaches(running.run, JobState.FINISHING)
    [cause] = running.run.record.causes
    assert (cause.party, cause.message, cause.traceback) == ("workflow", "ValueError: no", "Traceback ...")


async def test_workflow_whose_process_dies_ends_the_job(world):
    running = await train(world, "site-1", "site-2")
    running.workflow.end("killed by SIGSEGV")
    await world.reaches(running.run, JobState.FINISHING)
    assert running.run.record.reason == "the workflow's process ended: killed by SIGSEGV"
    for fake in running.sites.values():
        await fake.hears("stop")
        fake.stops(running.run)
    await world.reaches(running.run, JobState.FAILED)


async def test_workflow_that_speaks_no_protocol_ends_the_job(world):
    running = await deploy(world, "site-1", "site-2")
    running.workflow.break_off(ProtocolError("a frame declares 4294967295 bytes; the limit is 16777216"))
    await world.reaches(running.run, JobState.FINISHING)
    [cause] = running.run.record.causes
    assert (cause.party, cause.code) == ("workflow", "protocol-error")


async def test_workflow_that_cannot_be_started_ends_the_job(world):
    run = await world.run()
    world.launcher.error = ConfinementRefused("job code cannot be confined here")
    site = world.connect("site-1")
    run.choose(("site-1",))
    await world.reaches(run, JobState.FINISHING)
    assert run.record.causes[0].code == "confinement-refused"
    await site.hears("deploy")
    await site.hears("stop")
    site.stops(run)
    await world.reaches(run, JobState.FAILED)


async def test_workflow_without_a_folder_to_run_in_ends_the_job(world):
    run = await world.run()
    (world.folder / "jobs").write_text("a file in the way")
    run.choose(())
    await world.reaches(run, JobState.FAILED)
    assert run.record.reason.startswith("cannot start the workflow: ")
    assert run.record.causes[0].code == "local-error"


async def test_workflow_that_a_fault_of_ours_keeps_from_running_ends_the_job(world, caplog):
    run = await world.run()
    world.launcher.error = KeyError("nobody thought of that")
    run.choose(())
    await world.reaches(run, JobState.FAILED)
    assert run.record.reason == "internal error at the server; its log has the details"
    assert "nobody thought of that" in caplog.text


async def test_large_tensors_by_value_are_kept_as_a_blob(world):
    running = await deploy(world, "site-1", "site-2")
    model = tensors(*range(20_000))
    running.workflow.say(broadcast(model=payload(model)))
    order = await running["site-1"].hears("task")
    assert world.blobs.path(order.model.digest).read_bytes() == model


async def test_app_that_is_gone_from_the_blobs_fails_the_job_and_not_the_server(world):
    run = await world.run()
    world.blobs.remove(world.app.digest)
    run.choose(("site-1", "site-2"))
    await world.reaches(run, JobState.FAILED)
    assert run.record.reason.startswith("no blob ")


async def test_processes_of_the_workflow_that_survive_are_named(world):
    running = await train(world, "site-1", "site-2")
    running.workflow.remaining = (41, 42)
    running.workflow.break_off(JobFailed("boom"))
    for fake in running.sites.values():
        await fake.hears("stop")
        fake.stops(running.run)
    await world.reaches(running.run, JobState.FAILED)
    assert running.run.record.causes[-1].message == "processes 41, 42 could not be killed"


async def test_workflows_log_outlives_its_job_and_its_work_does_not(world):
    running = await train(world, "site-1", "site-2")
    running.workflow.print("round 0\n")
    folder = running.workflow.order.folder
    running.workflow.end()
    for fake in running.sites.values():
        await fake.hears("stop")
        fake.stops(running.run)
    await world.reaches(running.run, JobState.FAILED)
    await world.over(running.run)
    assert [path.name for path in folder.iterdir()] == ["log"]


@pytest.mark.parametrize("state", ["ready", "training"])
async def test_progress_is_shown_beside_the_site(world, state):
    running = await (train if state == "training" else deploy)(world, "site-1", "site-2")
    running.run.note_progress("site-1", pb.Progress(step=2**64 - 1))
    part = running.run.sites.parts["site-1"]
    assert part.progress == f"round 1, step {2**53}, at 00:00:00 UTC"  # what JSON can say exactly
    assert (part.step, part.progress_at) == (2**53, world.clock.now())
