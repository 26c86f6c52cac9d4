# SPDX-License-Identifier: Apache-2.0
"""One job's tasks at a site: done once, answered as often as asked; nothing its worker says is believed."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence

import numpy as np
import pytest
from agent_parties import App, write_app
from agent_rig import PATIENCE, Rig, make_gpu

from flprov.agent import handover
from flprov.blobs import digest_of
from flprov.errors import ProtocolError
from flprov.store import Change, MemoryStore, Row
from flprov.wire import encode_tensors, pb

SMALL = encode_tensors({"w": np.zeros(4, dtype=np.float32)})
LARGE = encode_tensors({"w": np.zeros(100_000, dtype=np.float32)})  # does not travel inside a message


def order(task_id: str = "0/train/1", *, number: int = 0, model: pb.Payload | None = None) -> pb.TaskOrder:
    return pb.TaskOrder(
        job_id="j1",
        task_id=task_id,
        name="train",
        round=number,
        rounds=3,
        expects="full,diff",
        model=model or inline(SMALL),
    )


def inline(data: bytes) -> pb.Payload:
    return pb.Payload(inline=data, size=len(data))


def answer(
    tensors: pb.Payload | None = None, task_id: str = "0/train/1", *, kind: str = "full", **fields: object
) -> pb.TaskAnswer:
    update = pb.UpdateMessage(kind=kind, tensors=tensors or inline(SMALL), samples=7, **fields)
    return pb.TaskAnswer(task_id=task_id, update=update)


class Site:
    """A rig with the job j1 deployed."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    async def order(self, *args, **named) -> pb.TaskOrder:
        """Order a task; returns it as the worker got it."""
        before = len(self.rig.worker.sent.of("task"))
        self.rig.jobs.order(order(*args, **named))
        return await self.rig.worker.sent.wait("task", before + 1)

    async def says(self, **body) -> pb.TaskAnswer:
        """Let the worker say something; returns what the site answers to the server."""
        before = len(self.rig.reports.of("answer"))
        self.rig.worker.say(**body)
        return await self.rig.reports.wait("answer", before + 1)

    def offer(self, data: bytes) -> pb.Payload:
        return pb.Payload(digest=self.rig.server.add(data), size=len(data))

    def put_out(self, name: str, data: bytes) -> pb.Payload:
        (self.rig.folder() / "out" / name).write_bytes(data)
        return pb.Payload(file=name, size=len(data))

    def left_in(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.rig.folder() / folder).iterdir())


@pytest.fixture
async def site(rig: Rig, app: App):
    deployed = await rig.deploy(app)
    assert deployed.ready
    return Site(rig)


async def test_whatever_stands_against_a_task_becomes_its_answer(site: Site, monkeypatch):
    def link(*_: object) -> None:
        raise OSError("no such luck")

    monkeypatch.setattr(site.rig.blobs, "link", link)
    site.rig.jobs.order(order(model=site.offer(LARGE)))
    failure = (await site.rig.reports.wait("answer")).failure
    assert (failure.code, failure.message) == (
        "local-error",
        "internal error at the site; its log has the details",
    )


# ---- a task, to the worker ---------------------------------------------------------------------


async def test_a_small_model_reaches_the_worker_inside_its_task(site: Site):
    assert await site.order() == order()
    assert site.left_in("in") == []
    assert site.rig.jobs.states() == {"j1": "training"}


async def test_a_large_model_reaches_the_worker_as_a_file_that_it_cannot_change(site: Site):
    task = await site.order(model=site.offer(LARGE))
    path = site.rig.folder() / "in" / task.model.file
    assert path.read_bytes() == LARGE
    assert path.stat().st_mode & 0o222 == 0
    assert task.model.size == len(LARGE)
    assert site.rig.server.fetches[-1].job_id == "j1"


async def test_an_older_model_is_not_left_beside_the_new_one(site: Site):
    await site.order("0/train/1", model=site.offer(LARGE))
    await site.says(answer=answer(site.put_out("u", LARGE)))
    task = await site.order("1/train/1", model=site.offer(LARGE.replace(b"\x00" * 8, b"\x01" * 8)))
    assert site.left_in("in") == [task.model.file]


async def test_tensors_beside_the_model_reach_the_worker_as_a_file_of_their_own(site: Site):
    beside = LARGE.replace(b"\x00" * 8, b"\x02" * 8)
    told = order(model=site.offer(LARGE))
    told.extra.CopyFrom(site.offer(beside))
    told.requires.append("c")
    site.rig.jobs.order(told)
    task = await site.rig.worker.sent.wait("task", 1)
    folder = site.rig.folder() / "in"
    assert (folder / task.model.file).read_bytes() == LARGE
    assert (folder / task.extra.file).read_bytes() == beside
    assert list(task.requires) == ["c"]
    assert site.left_in("in") == sorted([task.model.file, task.extra.file])
    await site.says(answer=answer())
    await site.order("1/train/1", number=1)  # a small one, which brings no file
    assert site.left_in("in") == []
    assert not site.rig.blobs.has(told.extra.digest)


async def test_small_tensors_beside_the_model_come_by_value(site: Site):
    told = order()
    told.extra.CopyFrom(inline(SMALL))
    site.rig.jobs.order(told)
    task = await site.rig.worker.sent.wait("task", 1)
    assert (task.extra.inline, site.left_in("in")) == (SMALL, [])


async def test_the_same_order_again_is_not_done_again(site: Site):
    await site.order()
    site.rig.jobs.order(order())
    site.rig.jobs.order(order())
    await site.says(answer=answer())
    assert len(site.rig.worker.sent.of("task")) == 1


async def test_the_same_order_after_its_answer_is_answered_again(site: Site):
    await site.order()
    first = await site.says(answer=answer())
    site.rig.jobs.order(order())
    assert await site.rig.reports.wait("answer", 2) == first
    assert len(site.rig.worker.sent.of("task")) == 1


async def test_a_task_that_was_answered_before_a_restart_is_answered_again(site: Site, app: App):
    await site.order()
    first = await site.says(answer=answer())
    await site.rig.restart()
    await site.rig.deploy(app)
    await site.rig.reports.wait("answer")  # with the deploy
    site.rig.jobs.order(order())
    assert await site.rig.reports.wait("answer", 2) == first
    assert site.rig.worker.sent.of("task") == []


async def test_a_model_that_cannot_be_had_is_a_failure_of_the_task(site: Site):
    site.rig.jobs.order(order(model=pb.Payload(digest="ab" * 32, size=5)))
    answered = await site.rig.reports.wait("answer")
    assert (answered.task_id, answered.failure.code) == ("0/train/1", "not-found")
    await site.order("1/train/1")


async def test_a_task_whose_model_has_no_name_of_a_blob_fails_and_the_job_can_be_stopped(site: Site):
    site.rig.jobs.order(order(model=pb.Payload(digest="../x", size=9)))
    told = await site.rig.reports.wait("answer")
    assert "not the name of a blob" in told.failure.message
    site.rig.jobs.stop("j1", "over", 0.1)
    await site.rig.reports.wait("stopped")


async def test_an_answer_that_the_server_wants_again_is_sent_again(site: Site):
    await site.order()
    first = await site.says(answer=answer())
    missing = pb.Failure(code="unavailable", message="its blob is not here")
    site.rig.jobs.acknowledged(pb.AnswerAck(job_id="j1", task_id="0/train/1", refused=missing))
    assert await site.rig.reports.wait("answer", 2) == first


# ---- an answer, to the server ------------------------------------------------------------------


async def test_a_small_update_travels_inside_its_answer(site: Site):
    await site.order()
    answered = await site.says(answer=answer(metrics={"loss": 0.5}, seconds=1.5))
    assert (answered.job_id, answered.task_id) == ("j1", "0/train/1")
    assert answered.update.tensors == inline(SMALL)
    assert dict(answered.update.metrics) == {"loss": 0.5}
    assert (answered.update.samples, answered.update.seconds) == (7, 1.5)
    assert site.rig.server.uploads == []
    assert site.rig.jobs.states() == {"j1": "ready"}


async def test_a_large_update_is_at_the_server_before_its_answer(site: Site):
    await site.order(model=site.offer(LARGE))
    answered = await site.says(answer=answer(site.put_out("u", LARGE)))
    assert answered.update.tensors == pb.Payload(digest=digest_of(LARGE), size=len(LARGE))
    assert site.rig.server.received.has(digest_of(LARGE))
    assert site.left_in("out") == []


async def test_an_update_that_is_too_large_for_a_message_becomes_a_blob(site: Site):
    await site.order(model=site.offer(LARGE))
    answered = await site.says(answer=answer(inline(LARGE)))
    assert answered.update.tensors.WhichOneof("where") == "digest"
    assert site.rig.server.received.path(answered.update.tensors.digest).read_bytes() == LARGE


async def test_while_the_server_is_away_an_answer_waits_for_it(site: Site):
    await site.order(model=site.offer(LARGE))
    site.rig.server.away = True
    site.rig.worker.say(answer=answer(site.put_out("u", LARGE)))
    await site.rig.clock.wait_sleeping()
    assert site.rig.reports.of("answer") == []
    site.rig.server.away = False
    site.rig.clock.advance(60.0)
    assert (await site.rig.reports.wait("answer")).update.samples == 7


async def test_what_the_worker_says_of_its_size_is_not_believed(site: Site):
    await site.order()
    answered = await site.says(answer=answer(pb.Payload(inline=SMALL, size=1 << 60)))
    assert answered.update.tensors.size == len(SMALL)


async def test_the_answer_is_for_this_job_whatever_the_worker_says(site: Site):
    await site.order()
    said = answer()
    said.job_id = "j2"
    assert (await site.says(answer=said)).job_id == "j1"


async def test_a_failure_in_the_job_s_code_is_the_answer(site: Site):
    await site.order()
    failure = pb.Failure(code="job-failed", message="train.py:3: ZeroDivisionError", traceback="Traceback")
    answered = await site.says(answer=pb.TaskAnswer(task_id="0/train/1", failure=failure))
    assert answered.failure == failure
    await site.order("1/train/1")


async def test_what_the_worker_says_at_its_end_is_the_answer(site: Site):
    await site.order()
    answered = await site.says(failure=pb.Failure(code="config-error", message="no file 'train.py'"))
    assert (answered.failure.code, answered.failure.message) == ("config-error", "no file 'train.py'")


async def test_a_site_that_keeps_tracebacks_to_itself_sends_none(rig: Rig, app: App):
    rig.config.policy.write_text("allow: {organisations: [org-a]}\ntracebacks: false\n")
    await rig.deploy(app)
    site = Site(rig)
    await site.order()
    answered = await site.says(failure=pb.Failure(message="it broke", traceback="patient 17"))
    assert (answered.failure.message, answered.failure.traceback) == ("it broke", "")


async def test_a_failure_of_any_length_fits_into_a_message(site: Site):
    await site.order()
    failure = pb.Failure(code="x" * 9999, message="m" * 9_000_000, traceback="t" * 9_000_000)
    answered = await site.says(failure=failure)
    assert answered.failure.code == "job-failed"
    assert answered.ByteSize() < 100_000


# ---- updates that do not leave the building ----------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"w": np.full(4, math.nan, dtype=np.float32)}, "NaN"),
        ({"w": np.full(4, math.inf, dtype=np.float32)}, "infinity"),
        ({"w": np.zeros(5, dtype=np.float32)}, "'w'"),
        ({"w": np.zeros(4, dtype=np.float64)}, "'w'"),
        ({"v": np.zeros(4, dtype=np.float32)}, "'w' is missing"),
        ({"w": np.zeros(4, dtype=np.float32), "x": np.zeros(1)}, "'x' is not in the model"),
        ({}, "no tensors"),
    ],
)
async def test_tensors_that_do_not_fit_the_model_are_refused_here(site: Site, tensors, said):
    await site.order()
    answered = await site.says(answer=answer(inline(encode_tensors(tensors))))
    assert answered.failure.code == "update-refused"
    assert said in answered.failure.message


@pytest.mark.parametrize(
    "fields",
    [
        {"samples": 2**63},
        {"weight": -1.0},
        {"weight": math.nan},
        {"metrics": {"loss": math.inf}},
        {"metrics": {"": 1.0}},
        {"metrics": {f"m{n}": 0.0 for n in range(300)}},
        {"seconds": math.nan},
        {"seconds": -1.0},
        {"kind": "surprise"},
        {"kind": "opaque"},  # the task takes full and diff
    ],
)
async def test_numbers_that_nobody_can_add_up_are_refused_here(site: Site, fields):
    await site.order()
    update = pb.UpdateMessage(**{"kind": "full", "tensors": inline(SMALL), "samples": 7} | fields)
    answered = await site.says(answer=pb.TaskAnswer(task_id="0/train/1", update=update))
    assert answered.failure.code == "update-refused"


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 200, SMALL[:-1], SMALL + b"\x00"])
async def test_bytes_that_are_no_tensors_are_refused_here(site: Site, data):
    await site.order()
    assert (await site.says(answer=answer(inline(data)))).failure.code == "update-refused"


async def test_an_update_without_tensors_is_refused_here(site: Site):
    await site.order()
    update = pb.UpdateMessage(kind="full", samples=7)
    answered = await site.says(answer=pb.TaskAnswer(task_id="0/train/1", update=update))
    assert answered.failure.code == "job-failed"


async def test_a_refused_update_does_not_stay_on_the_disk(site: Site):
    await site.order()
    answered = await site.says(answer=answer(site.put_out("u", LARGE)))
    assert answered.failure.code == "update-refused"
    assert not site.rig.blobs.has(digest_of(LARGE))
    assert site.left_in("out") == []


async def test_an_update_that_is_the_model_itself_does_not_take_the_model_away(site: Site):
    await site.order(model=site.offer(LARGE))
    said = answer(site.put_out("u", LARGE), weight=math.nan)  # refused for another reason
    assert (await site.says(answer=said)).failure.code == "update-refused"
    assert site.rig.blobs.has(digest_of(LARGE))


# ---- a worker that is hostile ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "../log", "/etc/passwd", "a/b", "gone", "a\x00b", "x" * 300])
async def test_a_file_outside_of_the_job_s_own_folder_is_not_taken(site: Site, name):
    await site.order()
    (site.rig.folder() / "log").write_bytes(SMALL)
    answered = await site.says(answer=answer(pb.Payload(file=name, size=len(SMALL))))
    assert answered.WhichOneof("outcome") == "failure"
    assert (site.rig.folder() / "log").exists()
    assert site.rig.server.uploads == []


async def test_a_link_to_a_file_outside_is_not_followed(site: Site):
    await site.order()
    secret = site.rig.config.kit.folder / "identity" / "key.pem"
    (site.rig.folder() / "out" / "u").symlink_to(secret)
    os.link(site.rig.config.policy, site.rig.folder() / "out" / "v")
    os.mkfifo(site.rig.folder() / "out" / "p")
    for number, name in enumerate(("u", "v", "p")):
        if number:
            await site.order(f"{number}/train/1", number=number)
        said = answer(pb.Payload(file=name, size=1), f"{number}/train/1")
        answered = await site.says(answer=said)
        assert answered.failure.code == "protocol-error", name
    assert secret.exists()
    assert site.rig.blobs.digests() <= {log.row.data["app"] for log in site.rig.store.rows() if log.row.data}


@pytest.mark.parametrize("size", [0, len(LARGE)])
async def test_a_blob_of_the_site_that_the_worker_names_is_not_taken(site: Site, size):
    digest = await site.rig.blobs.put(LARGE)
    await site.order(model=site.offer(LARGE))
    answered = await site.says(answer=answer(pb.Payload(digest=digest, size=size)))
    assert answered.WhichOneof("outcome") == "failure"
    assert site.rig.server.uploads == []


async def test_a_worker_that_speaks_nonsense_is_ended_and_the_task_fails(site: Site):
    await site.order()
    process = site.rig.process
    process.channel.said.put_nowait(ProtocolError("a frame declares 4294967295 bytes"))
    answered = await site.rig.reports.wait("answer")
    assert "a frame declares" in answered.failure.message
    assert not process.alive


async def test_a_worker_that_answers_what_nobody_asked_is_ended(site: Site):
    process = site.rig.process
    process.channel.say(answer=answer(task_id="7/train/1"))
    await process.wait()
    await site.rig.clock.elapse(0)
    assert site.rig.reports.of("answer") == []
    assert site.rig.jobs.ids == ["j1"]


async def test_after_a_worker_has_gone_the_next_task_starts_another(site: Site):
    await site.order()
    site.rig.process.end("was killed by SIGSEGV", code=None)
    answered = await site.rig.reports.wait("answer")
    assert answered.failure.code == "job-failed"
    assert "was killed by SIGSEGV" in answered.failure.message
    site.rig.jobs.order(order("1/train/1", number=1))
    async with asyncio.timeout(20):
        while len(site.rig.launcher.processes) < 2:
            await site.rig.clock.elapse(0)
    assert (await site.rig.worker.sent.wait("task")).task_id == "1/train/1"
    assert [message.WhichOneof("body") for message in site.rig.worker.sent.all] == ["start_site", "task"]
    assert (await site.says(answer=answer(task_id="1/train/1"))).update.samples == 7


async def test_a_worker_that_ends_between_tasks_is_no_failure(site: Site):
    site.rig.process.end()
    await site.rig.clock.elapse(0)
    assert site.rig.reports.of("answer") == []
    site.rig.jobs.order(order())
    async with asyncio.timeout(20):
        while len(site.rig.launcher.processes) < 2:
            await site.rig.clock.elapse(0)
    await site.rig.worker.sent.wait("task")


async def test_a_new_worker_of_the_job_keeps_its_gpu(rig: Rig, tmp_path):
    rig.gpus.gpus = (make_gpu(0),)
    await rig.deploy(write_app(tmp_path / "apps" / "gpu", job="resources: {gpus: 1}\n"))
    rig.process.end()
    await rig.clock.elapse(0)
    rig.gpus.gpus = (make_gpu(0, used=8 << 30),)  # by now its memory is in use
    rig.jobs.order(order())
    async with asyncio.timeout(20):
        while len(rig.launcher.processes) < 2:
            await rig.clock.elapse(0)
    assert rig.process.order.gpus == ("GPU-0",)


async def test_a_late_answer_to_a_task_that_the_server_went_on_from_is_dropped(site: Site):
    """The site was away for longer than the job allows; its worker has worked on meanwhile."""
    await site.order("0/train/1")
    await site.order("1/train/1", number=1)
    site.rig.worker.say(answer=answer(site.put_out("late", SMALL), "0/train/1"))
    answered = await site.says(answer=answer(task_id="1/train/1"))
    assert answered.task_id == "1/train/1"
    assert site.rig.process.alive
    assert site.left_in("out") == []
    assert len(site.rig.reports.of("answer")) == 1


async def test_a_late_model_does_not_take_the_place_of_the_new_one(site: Site):
    site.rig.server.asked.clear()
    site.rig.server.hold = asyncio.Event()
    model = site.offer(LARGE)
    site.rig.jobs.order(order("0/train/1", model=model))
    await site.rig.server.asked.wait()
    await site.order("1/train/1", number=1)
    site.rig.server.hold.set()
    await site.rig.bulk.fetch("j1", model.digest, model.size)  # waits for that same transfer
    await site.rig.clock.elapse(0)
    assert [task.task_id for task in site.rig.worker.sent.of("task")] == ["1/train/1"]
    assert site.left_in("in") == []


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        (ProtocolError("not that one"), "protocol-error", "not that one"),
        (TypeError("a fault of ours"), "local-error", "internal error"),
    ],
)
async def test_the_server_hears_of_an_update_that_cannot_be_sent(
    site: Site, monkeypatch: pytest.MonkeyPatch, fault: Exception, code: str, word: str
):
    """It would wait for the site as long as that is connected."""

    async def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(site.rig.bulk, "send", fail)
    await site.order(model=site.offer(LARGE))
    told = await site.says(answer=answer(site.put_out("large", LARGE)))
    assert (told.failure.code, word in told.failure.message) == (code, True)


# ---- progress and logs -------------------------------------------------------------------------


async def test_progress_is_passed_on_as_this_job_s(site: Site):
    await site.order()
    site.rig.worker.say(progress=pb.Progress(job_id="j2", task_id="0/train/1", step=3, values={"loss": 1.0}))
    told = await site.rig.reports.wait("progress")
    assert (told.job_id, told.step, dict(told.values)) == ("j1", 3, {"loss": 1.0})


async def test_a_flood_of_progress_is_a_trickle_to_the_server(site: Site):
    await site.order()
    for step in range(1000):
        site.rig.worker.say(progress=pb.Progress(step=step))
    await site.says(answer=answer())
    assert [told.step for told in site.rig.reports.of("progress")] == [0]
    await site.order("1/train/1")
    site.rig.clock.advance(1.0)
    site.rig.worker.say(progress=pb.Progress(step=5))
    assert (await site.rig.reports.wait("progress", 2)).step == 5


async def test_progress_that_would_not_fit_into_a_message_is_passed_over(site: Site):
    await site.order()
    site.rig.worker.say(progress=pb.Progress(step=1, values={f"v{n}": 0.0 for n in range(9999)}))
    site.rig.worker.say(progress=pb.Progress(step=2))
    assert (await site.rig.reports.wait("progress")).step == 2


async def test_what_the_worker_prints_is_at_the_server_when_the_job_has_stopped(site: Site):
    site.rig.process.print("round 0\n")
    site.rig.process.print("done\n")
    await site.rig.stop()
    assert site.rig.server.logs.path("j1", "site-1").read_bytes() == b"round 0\ndone\n"


async def test_a_job_is_stopped_also_while_the_server_takes_no_logs(site: Site):
    site.rig.process.print("round 0\n")
    site.rig.server.away = True
    assert (await site.rig.stop()).clean


async def test_a_task_that_is_open_when_the_job_is_stopped_is_not_answered(site: Site):
    await site.order()
    await site.rig.stop()
    assert site.rig.reports.of("answer") == []
    assert site.rig.store.load("answer") == {}


# ---- what a task costs -------------------------------------------------------------------------


async def test_a_task_costs_the_site_one_sync_of_its_disk(site: Site, monkeypatch: pytest.MonkeyPatch):
    synced: list[list[str]] = []
    written: list[list[str]] = []

    async def commit(changes: Sequence[Change], row: Row | None, *, urgent: bool = False) -> int:
        synced.append([change.kind for change in changes])
        return await MemoryStore.commit(site.rig.store, changes, row, urgent=urgent)

    async def write(changes: Sequence[Change], *, urgent: bool = False) -> None:
        written.append([change.kind for change in changes])
        await MemoryStore.commit(site.rig.store, changes, None, urgent=urgent)

    monkeypatch.setattr(site.rig.store, "commit", commit)
    monkeypatch.setattr(site.rig.store, "write", write)
    monkeypatch.setattr(handover, "MOMENT", PATIENCE)  # all of them are over by then
    for number in range(3):  # the order of a round says that those before it are saved
        await site.order(f"{number}/train/1", number=number)
        await site.says(answer=answer(task_id=f"{number}/train/1"))
    assert synced == [["answer"], *[["answer", "answer"]] * 2]  # the one before goes
    assert written == []


async def test_an_update_that_leaves_slowly_is_brought_to_this_disk_meanwhile(
    site: Site, monkeypatch: pytest.MonkeyPatch
):
    settled: list[str] = []

    async def settle(digest: str) -> None:
        settled.append(digest)

    monkeypatch.setattr(site.rig.blobs, "settle", settle)
    await site.order(model=site.offer(LARGE))
    await site.says(answer=answer(site.put_out("u", LARGE)))
    assert settled == []  # it was at the server at once, whose disk is enough
    held = asyncio.Event()
    send = site.rig.bulk.send

    async def slowly(*args: object, **named: object) -> None:
        await held.wait()
        await send(*args, **named)

    monkeypatch.setattr(site.rig.bulk, "send", slowly)
    await site.order("1/train/1", number=1, model=site.offer(LARGE))
    site.rig.worker.say(answer=answer(site.put_out("v", LARGE), task_id="1/train/1"))
    await site.rig.clock.wait_sleeping()
    site.rig.clock.advance(60.0)
    async with asyncio.timeout(PATIENCE):
        while not settled:
            await asyncio.sleep(0.005)
    held.set()
    await site.rig.reports.wait("answer", 2)
    assert settled == [digest_of(LARGE)]
