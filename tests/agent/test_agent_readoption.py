# SPDX-License-Identifier: Apache-2.0
"""The agent comes back to its jobs: they go on, are answered once, or end for a reason that is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest
from agent_parties import App, write_app
from agent_rig import PATIENCE, Rig
from test_agent_sitejob import LARGE, answer, order

from flprov.agent import handover, hearing
from flprov.agent.jobrecord import OpenTasks
from flprov.store import Delete, Put
from flprov.wire import encode_tensors, pb
from flprov.workers import ExitRecord
from flprov.workers.reaping import write_exit_record

OTHER = encode_tensors({"w": np.ones(100_000, dtype=np.float32)})


async def begin(rig: Rig, app: App, model: pb.Payload | None = None) -> None:
    """The job is deployed and at a task, and that is written down."""
    await rig.deploy(app)
    rig.jobs.order(order(model=model))
    await rig.worker.sent.wait("task")
    await until(lambda: "j1" in rig.store.load("task"))


def resumed(task_id: str) -> pb.Resumed:
    return pb.Resumed(task_id=task_id)


async def test_a_job_goes_on_with_its_process_and_its_task(rig: Rig, app: App):
    await begin(rig, app)
    process = rig.process
    await rig.come_back()
    assert rig.launcher.processes == [process]
    assert rig.jobs.states() == {"j1": "training"}
    assert rig.outcomes("job.adopt") == [("j1", "ok")]
    assert (await rig.deploy(app)).ready
    rig.jobs.order(order())  # said again by the server: nothing is done twice
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer())
    told = await rig.reports.wait("answer")
    assert (told.task_id, told.update.samples) == ("0/train/1", 7)
    assert rig.worker.sent.of("task") == rig.worker.sent.of("start_site") == []


async def test_an_answer_from_the_time_without_an_agent_is_taken_and_its_file_removed(rig: Rig, app: App):
    await begin(rig, app, pb.Payload(digest=rig.server.add(LARGE), size=len(LARGE)))
    await rig.come_back()
    path = rig.folder() / "out" / "u"
    path.write_bytes(LARGE)
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer(pb.Payload(file="u", size=len(LARGE))))
    told = await rig.reports.wait("answer")
    assert rig.server.received.has(told.update.tensors.digest)
    assert not path.exists()


async def test_what_a_process_hands_over_while_the_agent_still_starts_is_not_swept_away(
    rig: Rig, app: App, monkeypatch
):
    """Another job takes longer to come back; the first one's update is on disk and not yet written down."""
    await begin(rig, app, pb.Payload(digest=rig.server.add(LARGE), size=len(LARGE)))
    await rig.deploy(app, job_id="j2", token="b")
    loop, checking, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    adopt, verify = rig.launcher.adopt, hearing.verify_own_update

    async def slowly(folder):
        process = await adopt(folder)
        if folder.name == "j1":
            (folder / "out" / "u").write_bytes(OTHER)
            process.channel.say(resumed=resumed("0/train/1"))
            process.channel.say(answer=answer(pb.Payload(file="u", size=len(OTHER))))
        else:
            async with asyncio.timeout(PATIENCE):
                await checking.wait()
        return process

    def check(*arguments, **named):
        loop.call_soon_threadsafe(checking.set)
        assert go_on.wait(PATIENCE)
        verify(*arguments, **named)

    monkeypatch.setattr(rig.launcher, "adopt", slowly)
    monkeypatch.setattr(hearing, "verify_own_update", check)
    await rig.come_back()
    go_on.set()
    assert (await rig.reports.wait("answer")).update.samples == 7


async def test_an_answer_that_was_kept_already_is_not_taken_twice(rig: Rig, app: App):
    await begin(rig, app)
    rig.worker.say(answer=answer())
    first = await rig.reports.wait("answer")
    await rig.come_back()
    assert rig.jobs.states() == {"j1": "ready"}
    path = rig.folder() / "out" / "u"
    path.write_bytes(LARGE)
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer(pb.Payload(file="u", size=len(LARGE))))
    rig.jobs.order(order())
    assert await rig.reports.wait("answer") == first
    rig.jobs.order(order("1/train/2", number=1))
    await rig.worker.sent.wait("task")
    assert not path.exists()
    assert rig.process.alive


async def test_an_answer_whose_round_is_closed_by_now_does_no_harm(rig: Rig, app: App):
    await begin(rig, app)
    rig.worker.say(answer=answer())
    await rig.reports.wait("answer")
    rig.jobs.closed(pb.RoundClosed(job_id="j1", round=0))
    await rig.come_back()
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer())
    rig.jobs.order(order("1/train/2", number=1))
    assert (await rig.worker.sent.wait("task")).task_id == "1/train/2"
    rig.worker.say(answer=answer(task_id="1/train/2"))
    assert (await rig.reports.wait("answer")).task_id == "1/train/2"


async def test_a_task_that_was_lost_on_the_way_is_handed_over_again(rig: Rig, app: App):
    await begin(rig, app)
    await rig.come_back()
    rig.worker.say(resumed=resumed(""))
    assert (await rig.worker.sent.wait("task")).task_id == "0/train/1"
    rig.worker.say(answer=answer())
    assert (await rig.reports.wait("answer")).task_id == "0/train/1"


async def test_a_task_that_was_replaced_while_the_process_was_busy_is_answered_for_nothing(
    rig: Rig, app: App
):
    await begin(rig, app)
    await rig.come_back()
    rig.jobs.order(order("1/train/2", number=1))
    assert (await rig.worker.sent.wait("task")).task_id == "1/train/2"
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer(task_id="0/train/1"))
    rig.worker.say(answer=answer(task_id="1/train/2"))
    assert (await rig.reports.wait("answer")).task_id == "1/train/2"
    assert len(rig.worker.sent.of("task")) == len(rig.reports.of("answer")) == 1


async def until(holds: Callable[[], bool]) -> None:
    """Wait until that is so, and a little longer: what was heard is then acted upon."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_task_is_written_down_only_if_it_takes_a_moment(rig: Rig, app: App, monkeypatch):
    written = []
    keep = OpenTasks.keep

    async def count(self: OpenTasks, job_id: str) -> None:
        written.append(job_id)
        await keep(self, job_id)

    monkeypatch.setattr(OpenTasks, "keep", count)
    monkeypatch.setattr(handover, "MOMENT", 0.0)
    await begin(rig, app)
    assert written == ["j1"]
    rig.worker.say(answer=answer())
    await rig.reports.wait("answer")
    assert rig.store.load("task") == {}
    monkeypatch.setattr(handover, "MOMENT", 0.2)
    rig.jobs.order(order("1/train/2", number=1))
    await rig.worker.sent.wait("task", 2)
    rig.worker.say(answer=answer(task_id="1/train/2"))
    await rig.reports.wait("answer", 2)
    await asyncio.sleep(0.4)
    assert written == ["j1"]


async def come_back_without_record(rig: Rig, app: App) -> None:
    """The agent was killed after the process had been told of its task, and before that was written down."""
    await begin(rig, app)
    await rig.store.write([Delete("task", "j1")])
    await rig.come_back()
    assert rig.jobs.states() == {"j1": "ready"}


async def test_a_task_that_was_not_written_down_is_done_once(rig: Rig, app: App):
    await come_back_without_record(rig, app)
    rig.worker.say(resumed=resumed("0/train/1"))
    await until(rig.worker.said.empty)
    rig.jobs.order(order())
    await until(lambda: rig.jobs.states() == {"j1": "training"})
    rig.worker.say(answer=answer())
    assert (await rig.reports.wait("answer")).task_id == "0/train/1"
    assert rig.worker.sent.of("task") == []
    assert rig.process.alive


async def test_a_task_that_was_not_written_down_and_is_told_twice_is_answered_once(rig: Rig, app: App):
    """The process is busy: it hears of the new agent, and of the task, when it has its answer."""
    await come_back_without_record(rig, app)
    rig.jobs.order(order())
    await rig.worker.sent.wait("task")
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer())  # with its greeting
    rig.worker.say(answer=answer())  # as it would have said it anyway
    assert (await rig.reports.wait("answer")).task_id == "0/train/1"
    rig.worker.say(answer=answer())  # of the task that it was told the second time
    rig.jobs.order(order("1/train/2", number=1))
    assert (await rig.worker.sent.wait("task", 2)).task_id == "1/train/2"
    rig.worker.say(answer=answer(task_id="1/train/2"))
    assert (await rig.reports.wait("answer", 2)).task_id == "1/train/2"
    assert rig.process.alive


async def test_what_nobody_waited_for_yet_is_done_again(rig: Rig, app: App):
    await come_back_without_record(rig, app)
    rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(answer=answer())
    await until(rig.worker.said.empty)
    rig.jobs.order(order())
    assert (await rig.worker.sent.wait("task")).task_id == "0/train/1"
    rig.worker.say(answer=answer())
    assert (await rig.reports.wait("answer")).task_id == "0/train/1"


@pytest.mark.parametrize("back", [True, False])
async def test_a_process_that_resumes_at_will_is_ended(rig: Rig, app: App, back):
    await begin(rig, app)
    if back:
        await rig.come_back()
        rig.worker.say(resumed=resumed("0/train/1"))
    rig.worker.say(resumed=resumed(""))
    failure = (await rig.reports.wait("answer")).failure
    assert "resumed a conversation that had not broken off" in failure.message
    assert not rig.process.alive


async def test_a_job_is_looked_at_again_before_it_goes_on(rig: Rig, app: App):
    await begin(rig, app)
    rig.config.policy.write_text("allow: {organisations: [org-b]}\n")
    await rig.come_back()
    assert rig.jobs.running == []
    refused = (await rig.deploy(app)).refused
    assert refused.code == "policy-refused"


async def test_another_place_for_a_dataset_ends_the_process(rig: Rig, tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    rig.config.settings.write_text(f"datasets: {{heart: {tmp_path / 'old'}}}\n")
    app = write_app(tmp_path / "apps" / "needy", job="data: [heart]\n")
    await begin(rig, app)
    rig.config.settings.write_text(f"datasets: {{heart: {tmp_path / 'new'}}}\n")
    write_exit_record(rig.folder(), ExitRecord(reason="stopped", stopped=True, outside=True))
    await rig.come_back()
    assert rig.jobs.running == []
    [row] = [log.row for log in rig.store.rows() if log.row.what == "job.interrupt"]
    assert "another place for dataset 'heart' now" in row.reason
    assert (await rig.deploy(app)).ready
    assert rig.process.order.readable == (tmp_path / "new",)
    await rig.come_back()  # what it was started with this time is known
    assert rig.jobs.running == ["j1"]


async def interrupt(rig: Rig, app: App, record: ExitRecord) -> None:
    """The process ends while the agent is away, and the agent comes back to a server that still wants it."""
    await begin(rig, app)
    process = rig.process
    await rig.jobs.leave()
    process.end()  # nobody listens: how it ended is in its record
    write_exit_record(rig.folder(), record)
    await rig.come_back()
    assert (await rig.deploy(app)).ready


async def test_what_ended_a_process_in_the_meantime_is_told_and_it_begins_again(rig: Rig, app: App):
    reason = "the agent went away and did not come back within 60 s"
    await interrupt(rig, app, ExitRecord(reason=reason, stopped=True))
    assert f"started again: {reason}" in [told.doing for told in rig.doings.of("progress")]
    assert reason in (rig.folder() / "log").read_text()
    rig.jobs.order(order())
    assert (await rig.worker.sent.wait("task")).task_id == "0/train/1"
    assert rig.reports.of("answer") == []


async def test_a_process_that_failed_in_the_meantime_has_failed_its_task(rig: Rig, app: App):
    await interrupt(rig, app, ExitRecord(reason="exited with status 3", code=3))
    failure = (await rig.reports.wait("answer")).failure
    assert failure.message == "the job's process ended: exited with status 3"
    rig.jobs.order(order())
    assert (await rig.reports.wait("answer", 2)).failure == failure
    assert rig.worker.sent.of("task") == []


async def test_a_record_of_an_older_version_is_deployed_anew(rig: Rig, app: App):
    await begin(rig, app)
    record = rig.store.get("job", "j1")
    await rig.jobs.leave()
    await rig.store.commit([Put("job", "j1", {"app": record["app"]})], None)
    await rig.come_back()
    assert rig.jobs.running == []
    assert (await rig.deploy(app)).ready
    await rig.come_back()
    assert rig.jobs.running == ["j1"]


# ---- killed by somebody else --------------------------------------------------------------------


async def test_a_killed_process_is_started_again_and_does_its_task_again(rig: Rig, app: App):
    await begin(rig, app)
    (rig.folder() / "out" / "half").write_text("half an update")
    rig.process.end("killed by SIGKILL", code=None, outside=True)
    rig.launcher.launching.clear()
    await rig.launcher.launching.wait()
    assert (await rig.process.channel.sent.wait("task")).task_id == "0/train/1"
    assert "killed by SIGKILL; it is started again (try 2 of 3)" in rig.doings.of("progress")[-1].doing
    assert rig.doings.of("progress")[-1].task_id == "0/train/1"
    assert not (rig.folder() / "out" / "half").exists()
    assert "killed by SIGKILL" in (rig.folder() / "log").read_text()
    rig.worker.say(answer=answer())
    assert (await rig.reports.wait("answer")).WhichOneof("outcome") == "update"


async def test_a_task_that_is_killed_three_times_has_failed(rig: Rig, app: App):
    await begin(rig, app)
    for number in (1, 2, 3):
        await rig.process.channel.sent.wait("task")
        rig.process.end("killed by SIGKILL", code=None, outside=True)
        if number < 3:
            rig.launcher.launching.clear()
            await rig.launcher.launching.wait()
    failure = (await rig.reports.wait("answer")).failure
    assert failure.message == "the job's process was killed by SIGKILL; this was try 3 of 3"
    assert len(rig.launcher.processes) == 3
    rig.jobs.order(order("1/train/2", number=1))  # the next task is another matter
    rig.launcher.launching.clear()
    await rig.launcher.launching.wait()
    assert (await rig.process.channel.sent.wait("task")).task_id == "1/train/2"


async def test_tries_are_counted_through_restarts_of_the_agent(rig: Rig, app: App):
    await begin(rig, app)
    rig.process.end("killed by SIGKILL", code=None, outside=True)
    rig.launcher.launching.clear()
    await rig.launcher.launching.wait()
    await rig.process.channel.sent.wait("task")
    async with asyncio.timeout(PATIENCE):  # it is written down beside the task, not before it
        while rig.store.get("task", "j1")["tries"] != 2:
            await asyncio.sleep(0)
    await rig.come_back()
    rig.process.end("the job's shim was killed", code=None, outside=True)
    rig.launcher.launching.clear()
    await rig.launcher.launching.wait()
    assert "(try 3 of 3)" in rig.doings.of("progress")[-1].doing


@pytest.mark.parametrize("reason", ["killed by the kernel: out of memory", "exited with status 1"])
async def test_its_own_faults_are_not_tried_again(rig: Rig, app: App, reason):
    await begin(rig, app)
    rig.process.end(reason, code=1)
    assert reason in (await rig.reports.wait("answer")).failure.message
    assert len(rig.launcher.processes) == 1


async def test_who_stops_hearing_of_a_job_is_told_what_is_free(rig: Rig, app: App):
    await begin(rig, app)
    stopped = await rig.stop()
    assert stopped.clean
    assert any("cpu" in word for word in stopped.freed)


async def test_leaving_ends_nothing(rig: Rig, app: App):
    await begin(rig, app)
    await rig.jobs.leave()
    assert rig.process.left
    assert rig.process.alive
    assert rig.process.stops == []


async def test_an_answer_of_a_round_that_is_saved_is_not_said_again(rig: Rig, app: App):
    """Its record may still be on the disk when the agent is killed: it goes with the next answer."""
    await begin(rig, app)
    rig.worker.say(answer=answer())
    await rig.reports.wait("answer")
    rig.jobs.order(order("1/train/1", number=1))  # so round 0 is saved
    await rig.worker.sent.wait("task", 2)
    await until(lambda: "j1" in rig.store.load("task"))
    assert list(rig.store.load("answer")) == ["j1/0/train/1"]
    await rig.come_back()
    rig.jobs.welcome(["j1"])
    rig.worker.say(resumed=resumed("1/train/1"))
    rig.worker.say(answer=answer(task_id="1/train/1"))
    told = await rig.reports.wait("answer")
    assert told.task_id == "1/train/1"
    assert list(rig.store.load("answer")) == ["j1/1/train/1"]
