# SPDX-License-Identifier: Apache-2.0
"""Workflows that lie, floods of events, numbers and names that no honest peer sends."""

from __future__ import annotations

import asyncio
import itertools
import math
import os

import pytest
from server_parties import payload, tensors
from server_world import broadcast, close_round, deploy, finished, train

from flprov.errors import LocalError
from flprov.jobs import JobState
from flprov.server.jobs import events as ev
from flprov.server.jobs import run as jobrun
from flprov.server.sights.jobs import job_document
from flprov.wire import pb

TWO = ("site-1", "site-2")


async def fails_because(world, running, reason):
    await world.reaches(running.run, JobState.FINISHING)
    assert running.run.record.outcome == "failed"
    assert reason in running.run.record.reason


# ---- a workflow's frames ---------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 7, 2**32 - 1])
@pytest.mark.parametrize("frame", [broadcast, close_round])
async def test_round_out_of_order_fails_the_job(world, frame, number):
    """Round numbers become ids of records, and tell the sites what they may forget."""
    running = await deploy(world, *TWO)
    running.workflow.say(frame(number))
    await fails_because(world, running, f"the workflow is in round {number}, and the job in round 0")
    assert (world.jobs.rounds("0job"), world.store.load("round")) == ([], {})


async def test_round_that_is_closed_twice_fails_the_job(world):
    running = await deploy(world, *TWO)
    running.workflow.say(close_round(0))
    running.workflow.say(close_round(0))
    await fails_because(world, running, "the workflow is in round 0, and the job in round 1")
    assert len(world.jobs.rounds("0job")) == 1


@pytest.mark.parametrize("task_id", ["", "a b", "x" * 201, "train\x1b[2J", "t\N{RIGHT-TO-LEFT OVERRIDE}"])
async def test_task_with_a_name_that_is_none_fails_the_job(world, task_id):
    running = await deploy(world, *TWO)
    running.workflow.say(broadcast(task_id=task_id))
    await fails_because(world, running, "the workflow named a task")
    assert running.run.record.reason.isprintable()


async def test_site_that_is_named_twice_is_asked_once(world):
    running = await deploy(world, *TWO)
    running.workflow.say(broadcast(sites=("site-1", "site-1", "site-2", "site-2")))
    for name in TWO:
        await running[name].hears("task")
        running[name].updates(running.run, "train/0/0")
        await running.workflow.hears("answer")
    assert running.run.record.state is JobState.RUNNING


NOT_A_FILE = {
    "../secret": "not a file in its folder",
    "..": "not a file in its folder",
    "": "not a file in its folder",
    "/etc/passwd": "not a file in its folder",
    "a\0b": "is not the name of a file",
    "missing": "there is no file",
    "n" * 300: "not a readable regular file",
}


@pytest.mark.parametrize("name", NOT_A_FILE)
async def test_tensors_that_are_not_a_file_in_the_workflows_folder_fail_the_job(world, name):
    running = await deploy(world, *TWO)
    running.workflow.say(close_round(0, pb.Payload(file=name, size=1)))
    await fails_because(world, running, NOT_A_FILE[name])


async def test_tensors_by_digest_from_a_workflow_fail_the_job(world):
    """Or else it could read any blob of the server."""
    running = await deploy(world, *TWO)
    running.workflow.say(close_round(0, pb.Payload(digest=world.app.digest, size=10)))
    await fails_because(world, running, "which it has not made")


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
async def test_tensors_that_are_not_the_workflows_own_bytes_fail_the_job(world, kind, tmp_path):
    running = await deploy(world, *TWO)
    path = running.workflow.order.folder / "out" / "x"
    (tmp_path / "secret").write_bytes(b"key")
    if kind == "link":
        path.symlink_to(tmp_path / "secret")
    elif kind == "hard link":
        os.link(tmp_path / "secret", path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    running.workflow.say(close_round(0, pb.Payload(file="x", size=3)))
    await fails_because(world, running, "regular file" if kind != "hard link" else "hard link")


async def test_workflow_that_locks_its_folders_does_not_break_the_run(world):
    running = await deploy(world, *TWO)
    part = running.workflow.leave("state", tensors(*range(9)))
    folder = running.workflow.order.folder
    (folder / "in").rmdir()
    running.workflow.say(close_round(0, part))
    await running.workflow.hears("saved")
    await running["site-1"].fence(running.run)
    assert running.run.record.state is JobState.RUNNING


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/b", "", ".", "..", ".bashrc", "x\ny", "x\x1b[31m", "n" * 129, "-rf", "metrics.json",
     "record.json", "logs", "Ünicode"],
)  # fmt: skip
async def test_result_with_a_name_that_is_no_plain_file_name_fails_the_job(world, name):
    running = await deploy(world, *TWO)
    running.workflow.say(pb.FromWorker(finished=pb.Finished(results={name: payload(b"1")})))
    await fails_because(world, running, "the workflow named a result")


async def test_more_results_than_anybody_needs_fail_the_job(world):
    running = await deploy(world, *TWO)
    results = {f"r{number}": payload(b"1") for number in range(101)}
    running.workflow.say(pb.FromWorker(finished=pb.Finished(results=results)))
    await fails_because(world, running, "the workflow left 101 results")


async def test_metric_that_is_not_a_number_is_left_out_of_the_record(world):
    """JSON has none; a diverged loss, or one huge metric of one site, is no reason to lose a job."""
    running = await deploy(world, *TWO)
    running.workflow.say(close_round(0, loss=math.nan, top=math.inf, accuracy=0.5))
    await running.workflow.hears("saved")
    assert world.jobs.rounds("0job")[0].metrics == {"accuracy": 0.5}


async def test_words_of_a_failing_workflow_are_bounded_and_cannot_drive_a_terminal(world):
    running = await deploy(world, *TWO)
    failure = pb.Failure(
        code="x" * 1000, message="\x1b[2Jgone\n" + "m" * 9_000_000, traceback="t\n" * 9_000_000
    )
    running.workflow.say(pb.FromWorker(failure=failure))
    await world.reaches(running.run, JobState.FINISHING)
    record = running.run.record
    [cause] = record.causes
    assert record.reason.startswith("?[2Jgone mmm")
    assert [len(text) for text in (cause.code, cause.message, cause.traceback)] == [64, 2000, 20_000]
    assert "\n" not in record.reason
    assert job_document(running.run).reason == record.reason


async def test_frames_after_the_end_of_a_job_change_nothing(world):
    running = await deploy(world, *TWO)
    running.workflow.say(finished())
    running.workflow.say(close_round(0))
    running.workflow.say(broadcast())
    running.workflow.say(pb.FromWorker(failure=pb.Failure(message="late")))
    await world.reaches(running.run, JobState.FINISHING)
    await running["site-1"].fence(running.run)
    assert (running.run.record.outcome, running.run.record.round) == ("completed", 0)


@pytest.mark.parametrize(
    "frame", [pb.FromWorker(ready=pb.Ready()), pb.FromWorker(progress=pb.Progress(step=1))]
)
async def test_frames_that_mean_nothing_here_are_passed_over(world, frame):
    running = await train(world, *TWO)
    for _ in range(50):
        running.workflow.say(frame)
    running["site-1"].updates(running.run, "train/0/0")
    await running["site-1"].hears("ack")
    assert running.run.record.state is JobState.RUNNING


# ---- floods ----------------------------------------------------------------------------------


async def test_who_says_more_than_is_handled_has_to_wait(world):
    """The run is busy (here: it does not run at all), and a site tells for ever: memory stays bounded."""
    run = await world.run()
    busy = asyncio.Event()
    handle = run._handle

    async def handle_later(event):
        await busy.wait()
        await handle(event)

    run._handle = handle_later
    said = 0

    async def say():
        nonlocal said
        while said < 5000:
            await run.hear(ev.SiteFailed(site="site-1", task_id="x", code="x", message="m"))
            said += 1

    saying = asyncio.create_task(say())
    for _ in range(1000):
        await asyncio.sleep(0)
    assert (run._inbox.qsize(), said) == (100, 100)  # and what comes first is being handled
    busy.set()
    async with asyncio.timeout(10):
        await saying
    assert said == 5000


async def test_who_says_more_than_a_full_disk_takes_has_to_wait_for_it(world, monkeypatch):
    """However often it is tried again, and in the end all of it is heard, in order."""
    monkeypatch.setattr(jobrun, "backoff", lambda: itertools.repeat(0.0))
    run = (await train(world, *TWO)).run
    heard = []

    async def handle(events):
        await asyncio.sleep(0)
        if world.store.full:
            raise LocalError("the disk is full")
        heard.extend(event.frame.progress.step for event in events if isinstance(event, ev.WorkflowSaid))

    async def say():
        for step in range(1000):
            await run.hear(ev.WorkflowSaid(frame=pb.FromWorker(progress=pb.Progress(step=step))))

    run._handle = handle
    world.store.full = True
    saying = asyncio.create_task(say())
    async with asyncio.timeout(10):
        while run._failures < 20:
            await asyncio.sleep(0)
            assert run._inbox.qsize() + len(run._put_off) < 300
        world.store.full = False
        await saying
        while len(heard) < 1000:
            await asyncio.sleep(0)
    assert heard == list(range(1000))


async def test_event_for_a_run_that_is_over_is_forgotten(world):
    run = await world.run(state=JobState.FAILED)
    for _ in range(1000):
        run.tell(ev.SiteStopped(site="site-1", clean=True, reason=""))
        await run.hear(ev.SiteStopped(site="site-1", clean=True, reason=""))
    assert run._inbox.qsize() == 0


async def test_who_waits_to_be_heard_is_let_go_when_the_run_ends(world):
    running = await deploy(world, *TWO)
    run = running.run
    for _ in range(200):
        run.tell(ev.SiteFailed(site="site-1", task_id="x", code="x", message="m"))
    waiting = asyncio.create_task(run.hear(ev.SiteStopped(site="site-1", clean=True, reason="")))
    await asyncio.sleep(0)
    await world.jobs.close()
    async with asyncio.timeout(10):
        await waiting


async def test_site_that_never_reads_is_dropped_and_not_queued_for(world):
    running = await train(world, *TWO)
    site = running["site-1"]
    for _ in range(10_001):
        site.fails(running.run, "nothing")
    await running["site-2"].fence(running.run)
    assert site.session.closed_because == "it stopped reading its commands"
    assert site.session.waiting <= 10_000


async def test_flood_of_one_sites_failures_is_one_cause_and_one_row(world):
    running = await train(world, "site-1", "site-2", "site-3")
    rows = world.store.head
    for number in range(500):
        running["site-3"].fails(running.run, "train/0/0", f"boom {number}")
    await running["site-2"].fence(running.run)
    assert world.store.head == rows + 1
    assert [cause.message for cause in running.run.record.causes] == ["boom 0"]
