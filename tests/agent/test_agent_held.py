# SPDX-License-Identifier: Apache-2.0
"""The jobs that a site holds: every word of the server may come twice, late, or for another job."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from agent_parties import App, write_app
from agent_rig import FakeGPUs, Rig, make_gpu
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from flprov.agent.sitejob import SiteJob
from flprov.blobs import BlobStore, digest_of
from flprov.errors import LocalError, NoRoom
from flprov.wire import encode_tensors, pb

ROOM = 100_000  # floats: too many to travel inside a message


def weights(value: float) -> bytes:
    import numpy as np

    return encode_tensors({"w": np.full(ROOM, value, dtype=np.float32)})


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- deploy ------------------------------------------------------------------------------------


async def test_a_job_is_unpacked_and_its_worker_started(rig: Rig, app: App, tmp_path):
    data = tmp_path / "heart"
    data.mkdir()
    rig.config.settings.write_text(f"datasets: {{heart: {data}}}\n")
    app = write_app(tmp_path / "apps" / "needy", job="data: [heart]\nresources: {grace: 3s}\n")
    deployed = await rig.deploy(app)
    assert (deployed.job_id, deployed.ready) == ("j1", True)
    order = rig.process.order
    assert (order.job_id, order.folder, order.main) == ("j1", rig.folder(), "site")
    assert order.readable == (data,)
    assert order.private == (rig.config.kit.folder, rig.config.policy, rig.config.settings)
    assert (order.gpus, order.unconfined, order.grace) == ((), False, 3.0)
    assert sorted(files_below(rig.folder() / "app")) == ["job.yml", "train.py"]
    start = await rig.worker.sent.wait("start_site")
    assert (start.job_id, start.site, dict(start.datasets)) == ("j1", "site-1", {"heart": str(data)})
    assert b'"name":"needy"' in start.spec
    assert rig.jobs.states() == {"j1": "ready"}
    assert rig.jobs.ids == rig.jobs.running == ["j1"]


async def test_who_was_let_in_is_in_the_site_s_own_record(rig: Rig, app: App):
    await rig.deploy(app)
    [row] = [log.row for log in rig.store.rows() if log.row.what == "job.accept"]
    assert row.who == "spiffe://heart.example/person/org-a/lead/leo"
    assert (row.object, row.data["app"]) == ("j1", app.bundle.digest)


async def test_deployed_again_it_says_so_again_and_starts_nothing(rig: Rig, app: App):
    await rig.deploy(app)
    assert (await rig.deploy(app)).ready
    assert len(rig.launcher.processes) == 1
    assert len(rig.server.fetches) == 1
    assert rig.outcomes("job.accept") == [("j1", "ok")]


async def test_an_app_that_came_with_the_order_is_not_fetched(rig: Rig, app: App):
    order = rig.offer(app)
    order.app = app.bundle.data
    rig.jobs.deploy(order)
    assert (await rig.reports.wait("deployed")).ready
    assert rig.server.fetches == []
    assert rig.blobs.has(app.bundle.digest)


async def test_an_app_that_came_with_the_order_and_is_another_one_is_fetched(rig: Rig, app: App):
    order = rig.offer(app)
    order.app = app.bundle.data[:-1]
    rig.jobs.deploy(order)
    assert (await rig.reports.wait("deployed")).ready
    assert {fetch.digest for fetch in rig.server.fetches} == {app.bundle.digest}
    assert rig.blobs.digests() == {app.bundle.digest}


async def test_deployed_twice_at_once_it_is_done_once(rig: Rig, app: App):
    rig.launcher.gate = asyncio.Event()
    rig.jobs.deploy(rig.offer(app))
    await rig.launcher.launching.wait()
    rig.jobs.deploy(rig.offer(app))
    await asyncio.sleep(0)
    rig.launcher.gate.set()
    await rig.reports.wait("deployed")
    await rig.stop()
    assert len(rig.reports.of("deployed")) == len(rig.launcher.processes) == 1


async def test_two_jobs_of_one_app_share_its_bundle(rig: Rig, app: App):
    await rig.deploy(app, token="a")
    await rig.deploy(app, job_id="j2", token="b")
    assert len(rig.server.fetches) == 1
    await rig.stop("j1")
    assert rig.blobs.has(app.bundle.digest)
    await rig.stop("j2")
    assert rig.blobs.digests() == set()


async def test_a_refused_job_is_answered_with_the_reason_and_leaves_nothing(rig: Rig, app: App):
    rig.config.policy.write_text("allow: {organisations: [org-b]}\n")
    deployed = await rig.deploy(app)
    assert not deployed.ready
    assert deployed.refused.code == "policy-refused"
    assert "only org-b" in deployed.refused.message
    assert rig.outcomes("job.accept") == [("j1", "refused")]
    assert rig.jobs.ids == []
    assert rig.server.fetches == []
    assert list(rig.jobs.folder.iterdir()) == []


@pytest.mark.parametrize("stuck", [False, True], ids=["", "and it cannot be ended"])
async def test_whatever_stands_against_a_deploy_is_answered(rig: Rig, app: App, monkeypatch, stuck):
    async def stop(*_: object) -> tuple[int, ...]:
        raise OSError("no stop either")

    rig.launcher.error = FileNotFoundError(2, "No such file or directory", "/opt/venv/share")
    if stuck:
        monkeypatch.setattr(SiteJob, "stop", stop)
    refused = (await rig.deploy(app)).refused
    assert (refused.code, refused.message) == (
        "local-error",
        "internal error at the site; its log has the details",
    )
    assert rig.outcomes("job.accept") == [("j1", "ok"), ("j1", "failed")]
    monkeypatch.undo()
    rig.launcher.error = None
    assert rig.jobs.running == (["j1"] if stuck else [])
    assert (await rig.stop()).clean
    assert (await rig.deploy(app)).ready


async def test_what_a_person_can_do_about_it_is_told(rig: Rig, tmp_path):
    app = write_app(tmp_path / "apps" / "needy", job="data: [heart]\n")
    refused = (await rig.deploy(app)).refused
    assert refused.code == "not-found"
    assert refused.hint.startswith("the site's IT adds it under `datasets`")


async def test_packages_that_are_not_installed_here_are_named(rig: Rig, tmp_path):
    app = write_app(tmp_path / "apps" / "needy", job='needs: ["numpy>=999", "no-such-package"]\n')
    refused = (await rig.deploy(app)).refused
    assert refused.code == "not-found"
    assert "numpy" in refused.message
    assert "no-such-package" in refused.message
    assert rig.jobs.ids == []
    assert rig.launcher.processes == []


async def test_an_app_with_other_bytes_than_signed_is_refused_and_not_kept(rig: Rig, app: App):
    message = rig.offer(app)
    data = rig.server.blobs[app.bundle.digest]
    rig.server.blobs[app.bundle.digest] = data[:-1] + b"x"
    rig.jobs.deploy(message)
    deployed = await rig.reports.wait("deployed")
    assert deployed.refused.code == "protocol-error"
    assert rig.blobs.digests() == set()
    assert rig.launcher.processes == []


async def test_a_bundle_that_is_no_app_is_refused(rig: Rig, app: App):
    bundle = dataclasses.replace(app.bundle, data=b"no zip", digest=digest_of(b"no zip"))
    rig.jobs.deploy(rig.offer(App(spec=app.spec, bundle=bundle)))
    assert not (await rig.reports.wait("deployed")).ready
    assert files_below(rig.jobs.folder) == []
    assert rig.blobs.digests() == set()


async def test_a_worker_that_cannot_be_started_is_a_refusal(rig: Rig, app: App):
    rig.launcher.error = LocalError("the interpreter /opt/python does not exist")
    deployed = await rig.deploy(app)
    assert (deployed.refused.code, deployed.refused.message) == (
        "local-error",
        "the interpreter /opt/python does not exist",
    )
    assert rig.jobs.ids == []
    assert files_below(rig.jobs.folder) == []


# ---- GPUs --------------------------------------------------------------------------------------


def gpu_app(folder: Path) -> App:
    return write_app(folder, job="resources: {gpus: 1, gpu_memory: 1GiB}\n")


async def test_a_job_gets_a_gpu_of_its_own_and_gives_it_back(rig: Rig, tmp_path):
    rig.gpus.gpus = FakeGPUs(make_gpu(0)).gpus
    app = gpu_app(tmp_path / "apps" / "gpu")
    await rig.deploy(app, token="a")
    assert rig.process.order.gpus == ("GPU-0",)
    refused = (await rig.deploy(app, job_id="j2", token="b")).refused
    assert refused.code == "no-room"
    assert "needs 1 GPU of 1 GiB, 0 free of 1: 1 used by job j1 (gpu)" in refused.message
    await rig.stop("j1")
    assert (await rig.deploy(app, job_id="j2", token="b")).ready


async def test_a_site_without_gpus_refuses_with_the_reason(rig: Rig, tmp_path):
    refused = (await rig.deploy(gpu_app(tmp_path / "apps" / "gpu"))).refused
    assert "needs 1 GPU of 1 GiB, has 0 (no NVIDIA driver on this machine)" in refused.message


# ---- replays and restarts ----------------------------------------------------------------------


async def test_a_submission_makes_one_job_only(rig: Rig, app: App):
    await rig.deploy(app)
    await rig.stop()
    message = rig.offer(app, job_id="j2")
    rig.jobs.deploy(message)
    deployed = await rig.reports.wait("deployed", 2)
    assert deployed.refused.code == "permission-refused"
    assert "replay" in deployed.refused.message


async def test_a_replay_is_known_after_a_restart(rig: Rig, app: App):
    await rig.deploy(app)
    await rig.stop()
    await rig.restart()
    assert "replay" in (await rig.deploy(app, job_id="j2")).refused.message


async def test_a_replay_under_another_valid_signature_is_refused(rig: Rig, app: App):
    """Of an ECDSA signature (r, s), anybody can make (r, n - s), which verifies as well."""
    await rig.deploy(app)
    await rig.stop()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # P-256's n
    message = rig.offer(app, job_id="j2")
    r, s = decode_dss_signature(message.signature)
    message.signature = encode_dss_signature(r, order - s)
    rig.jobs.deploy(message)
    deployed = await rig.reports.wait("deployed", 2)
    assert (deployed.refused.code, "replay" in deployed.refused.message) == ("permission-refused", True)


async def test_a_job_that_was_accepted_comes_back_after_a_restart_however_late(rig: Rig, app: App):
    await rig.deploy(app, life=timedelta(days=1))
    await rig.restart()
    assert (rig.jobs.ids, rig.jobs.running) == (["j1"], [])
    rig.clock.advance(timedelta(days=3).total_seconds())
    assert (await rig.deploy(app, life=timedelta(days=1))).ready
    assert len(rig.server.fetches) == 1  # its bundle was kept


async def test_a_job_that_was_stopped_returns_only_while_its_submission_is_fresh(rig: Rig, app: App):
    await rig.deploy(app, life=timedelta(days=1))
    await rig.stop()
    assert (await rig.deploy(app, life=timedelta(days=1))).ready
    await rig.stop()
    rig.clock.advance(timedelta(days=3).total_seconds())
    assert "was valid until" in (await rig.deploy(app, life=timedelta(days=1))).refused.message


async def test_another_submission_under_the_id_of_a_job_that_is_here_is_refused(rig: Rig, app: App):
    await rig.deploy(app, token="a")
    await rig.restart()
    assert not (await rig.deploy(app, token="b")).ready


async def test_an_agent_that_stops_while_it_deploys_still_holds_the_job(rig: Rig, app: App):
    rig.server.hold = asyncio.Event()
    rig.jobs.deploy(rig.offer(app))
    await rig.server.asked.wait()
    await rig.restart()
    assert rig.jobs.ids == ["j1"]
    assert rig.outcomes("job.accept") == [("j1", "ok")]
    assert rig.outcomes("job.stop") == []


async def test_an_agent_that_stops_ends_its_workers_and_keeps_their_jobs(rig: Rig, app: App):
    await rig.deploy(app)
    process = rig.process
    await rig.restart()
    assert not process.alive
    assert process.stops == [1.0]
    assert rig.jobs.ids == ["j1"]


async def test_blobs_that_a_killed_agent_left_are_removed_at_the_next_start(rig: Rig, app: App):
    await rig.deploy(app)
    left = await rig.blobs.put(b"a model of a round that is long over")
    await rig.restart()
    assert not rig.blobs.has(left)
    assert rig.blobs.has(app.bundle.digest)  # its job was accepted and comes back


# ---- stop --------------------------------------------------------------------------------------


async def test_a_stopped_job_leaves_nothing(rig: Rig, app: App):
    await rig.deploy(app)
    stopped = await rig.stop(grace=0.25)
    assert (stopped.job_id, stopped.clean, list(stopped.processes)) == ("j1", True, [])
    assert rig.process.stops == [0.25]
    assert (await rig.worker.sent.wait("quit")).reason == "the job is done"
    assert rig.jobs.ids == rig.jobs.running == []
    assert list(rig.jobs.folder.iterdir()) == []
    assert rig.blobs.digests() == set()
    assert rig.store.load("job") == {}


async def test_a_job_that_is_not_here_is_confirmed_as_stopped(rig: Rig):
    assert (await rig.stop("j9")).clean
    assert rig.outcomes("job.stop") == []


async def test_stopped_again_it_is_confirmed_again(rig: Rig, app: App):
    await rig.deploy(app)
    assert (await rig.stop()).clean
    assert (await rig.stop()).clean
    assert rig.process.stops == [0.5]


async def test_two_stops_at_once_are_one(rig: Rig, app: App):
    await rig.deploy(app)
    rig.jobs.stop("j1", "first", 0.5)
    rig.jobs.stop("j1", "second", 0.5)
    await rig.reports.wait("stopped")
    assert rig.process.stops == [0.5]
    assert len(rig.reports.of("stopped")) == 1


@pytest.mark.parametrize("job_id", ["", ".", "..", "../jobs", "../..", "/", "a/../..", "\x00", "a\x00"])
async def test_a_stop_for_a_name_that_is_no_job_s_removes_nothing(rig: Rig, app: App, job_id):
    await rig.deploy(app)
    before = files_below(rig.config.state)
    stopped = await rig.stop(job_id)
    assert stopped.clean
    assert files_below(rig.config.state) == before


async def test_what_cannot_be_killed_is_named_and_the_job_stays(rig: Rig, tmp_path):
    rig.gpus.gpus = (make_gpu(0),)
    app = gpu_app(tmp_path / "apps" / "gpu")
    await rig.deploy(app, token="a")
    rig.process.remaining = (77, 78)
    stopped = await rig.stop()
    assert (stopped.clean, list(stopped.processes)) == (False, [77, 78])
    assert "77, 78 could not be killed" in stopped.reason
    assert rig.jobs.ids == ["j1"]
    assert rig.jobs.leases.held("j1").gpus == ("GPU-0",)
    rig.process.remaining = ()
    assert (await rig.stop()).clean
    assert rig.jobs.ids == []
    assert rig.jobs.leases.all == {}


async def test_a_stop_while_the_app_is_fetched_leaves_nothing(rig: Rig, app: App):
    rig.server.hold = asyncio.Event()
    rig.jobs.deploy(rig.offer(app))
    await rig.server.asked.wait()
    assert (await rig.stop()).clean
    rig.server.hold.set()
    await rig.stop("j9")  # whatever was still to be said has been said
    assert rig.reports.of("deployed") == []
    assert rig.launcher.processes == []
    assert rig.jobs.ids == []
    assert files_below(rig.jobs.folder) == []


async def test_half_an_app_goes_with_its_job_also_if_the_agent_was_restarted_in_between(rig: Rig, app: App):
    rig.server.chunk, rig.server.cuts = 8, [2, 0, 0, 0, 0, 0, 0, 0]
    rig.jobs.deploy(rig.offer(app))
    await rig.clock.wait_sleeping()
    partial = rig.config.state / "blobs" / "partial"
    assert len(list(partial.glob("*.part"))) == 1
    rig.blobs = BlobStore(rig.config.state / "blobs")
    await rig.restart()
    assert len(list(partial.iterdir())) == 1  # it goes on there
    rig.jobs.welcome([])  # the job has ended meanwhile
    await rig.reports.wait("stopped")
    assert list(partial.iterdir()) == []


async def test_a_stop_in_the_very_moment_of_the_deploy_leaves_nothing(rig: Rig, app: App):
    rig.server.away = True
    rig.jobs.deploy(rig.offer(app))
    stopped = await rig.stop()
    assert stopped.clean
    await rig.stop("j9")
    assert rig.clock.sleeping == 0  # nobody goes on trying
    assert rig.launcher.processes == []
    assert rig.jobs.ids == []
    assert files_below(rig.jobs.folder) == []


async def test_a_stop_while_the_worker_starts_gives_that_up(rig: Rig, app: App):
    rig.launcher.gate = asyncio.Event()
    rig.jobs.deploy(rig.offer(app))
    await rig.launcher.launching.wait()
    assert (await rig.stop()).clean
    assert rig.launcher.processes == []
    assert rig.reports.of("deployed") == []
    assert rig.jobs.ids == []
    assert files_below(rig.jobs.folder) == []


async def test_of_stop_deploy_and_stop_the_last_word_counts(rig: Rig, app: App):
    await rig.deploy(app)
    rig.jobs.stop("j1", "restart", 0.5)
    rig.jobs.deploy(rig.offer(app))
    await rig.stop()
    await rig.stop("j9")
    assert rig.jobs.ids == []
    assert [process.alive for process in rig.launcher.processes] == [False]


async def test_a_job_whose_remains_cannot_be_ended_is_not_deployed_over_them(rig: Rig, app: App):
    await rig.deploy(app)
    rig.process.remaining = (77,)
    await rig.stop()
    deployed = await rig.deploy(app)
    assert not deployed.ready
    assert "could not be ended" in deployed.refused.message
    assert len(rig.launcher.processes) == 1


async def test_a_deploy_that_comes_while_the_job_is_stopped_waits_for_the_end(rig: Rig, app: App):
    await rig.deploy(app)
    rig.jobs.stop("j1", "restart", 0.5)
    await asyncio.sleep(0)
    assert (await rig.deploy(app)).ready
    assert [process.alive for process in rig.launcher.processes] == [False, True]
    assert [message.WhichOneof("body") for message in rig.reports.all] == ["deployed", "stopped", "deployed"]


async def test_a_worker_that_reads_nothing_is_ended_all_the_same(rig: Rig, app: App, monkeypatch):
    monkeypatch.setattr("flprov.agent.sitejob._LAST_WORD", 0.01)
    await rig.deploy(app)

    async def never(message: pb.ToWorker) -> None:
        await asyncio.Event().wait()

    rig.worker.send = never
    assert (await rig.stop()).clean
    assert not rig.process.alive


async def test_leftovers_that_cannot_be_ended_are_not_forgotten(rig: Rig, monkeypatch):
    """The record by which they are found again stays, so that a second stop does not lie."""
    from flprov.workers import Leftovers

    folder = rig.folder()
    folder.mkdir()
    (folder / "shim.json").write_text("{}")
    monkeypatch.setattr(
        "flprov.agent.held.reap_leftovers",
        lambda folder: Leftovers(
            found=(7,), remaining=(7,) if (folder / "shim.json").exists() else (), record=None
        ),
    )
    assert [(await rig.stop()).clean for _ in range(2)] == [False, False]


# ---- welcome -----------------------------------------------------------------------------------


async def test_a_job_that_the_server_does_not_run_any_more_is_ended(rig: Rig, app: App):
    await rig.deploy(app)
    rig.jobs.welcome([])
    assert (await rig.reports.wait("stopped")).clean
    assert not rig.process.alive


async def test_a_job_from_before_a_restart_that_is_over_is_forgotten(rig: Rig, app: App):
    await rig.deploy(app)
    await rig.restart()
    rig.jobs.welcome([])
    assert (await rig.reports.wait("stopped")).clean
    assert rig.jobs.ids == []
    assert list(rig.jobs.folder.iterdir()) == []
    assert rig.blobs.digests() == set()


async def test_a_job_that_goes_on_is_left_alone(rig: Rig, app: App):
    await rig.deploy(app)
    rig.jobs.welcome(["j1", "j-unknown"])
    await asyncio.sleep(0)
    assert rig.process.alive
    assert rig.reports.of("stopped") == []


# ---- answers and their blobs -------------------------------------------------------------------


async def answer_large(
    rig: Rig, task_id: str, number: int, value: float, *, model: bytes = b""
) -> pb.TaskAnswer:
    """Let the worker answer a task with tensors that travel as a blob."""
    before = len(rig.reports.of("answer"))
    order = pb.TaskOrder(job_id="j1", task_id=task_id, name="train", round=number, expects="full")
    if model:
        order.model.CopyFrom(pb.Payload(digest=rig.server.add(model), size=len(model)))
    sent = len(rig.worker.sent.of("task"))
    rig.jobs.order(order)
    await rig.worker.sent.wait("task", sent + 1)
    data = weights(value)
    (rig.folder() / "out" / "u").write_bytes(data)
    tensors = pb.Payload(file="u", size=len(data))
    rig.worker.say(
        answer=pb.TaskAnswer(task_id=task_id, update=pb.UpdateMessage(kind="full", tensors=tensors))
    )
    return await rig.reports.wait("answer", before + 1)


async def close_round(rig: Rig, number: int) -> None:
    rig.jobs.closed(pb.RoundClosed(job_id="j1", round=number))
    await rig.stop("j9")


async def test_an_answer_stays_until_its_round_is_saved(rig: Rig, app: App):
    await rig.deploy(app)
    digest = (await answer_large(rig, "0/train/1", 0, 1.5)).update.tensors.digest
    assert rig.server.received.path(digest).read_bytes() == weights(1.5)
    assert rig.blobs.has(digest)
    rig.jobs.acknowledged(pb.AnswerAck(job_id="j1", task_id="0/train/1"))
    assert rig.blobs.has(digest)
    await close_round(rig, 0)
    assert not rig.blobs.has(digest)
    await answer_large(rig, "1/train/1", 1, 2.5)
    assert list(rig.store.load("answer")) == ["j1/1/train/1"]  # the older record went with this one


async def test_a_blob_that_another_answer_names_stays(rig: Rig, app: App):
    await rig.deploy(app)
    first = await answer_large(rig, "0/train/1", 0, 1.5)
    second = await answer_large(rig, "1/train/1", 1, 1.5)
    assert first.update.tensors.digest == second.update.tensors.digest
    await close_round(rig, 0)
    assert rig.blobs.has(second.update.tensors.digest)


async def test_an_answer_that_is_the_next_round_s_model_stays_for_that_round(rig: Rig, app: App):
    """One site, or a round that changes nothing: the mean of the updates is the update itself."""
    await rig.deploy(app)
    digest = (await answer_large(rig, "0/train/1", 0, 1.5)).update.tensors.digest
    order = pb.TaskOrder(job_id="j1", task_id="1/train/1", name="train", round=1, expects="full")
    order.model.CopyFrom(pb.Payload(digest=digest, size=len(weights(1.5))))
    rig.jobs.order(order)
    rig.jobs.closed(pb.RoundClosed(job_id="j1", round=0))
    task = await rig.worker.sent.wait("task", 2)
    await rig.stop("j9")
    assert (rig.folder() / "in" / task.model.file).read_bytes() == weights(1.5)
    assert rig.blobs.has(digest)  # what the answer is compared with


async def test_a_model_goes_when_the_next_one_comes(rig: Rig, app: App):
    await rig.deploy(app)
    await answer_large(rig, "0/train/1", 0, 1.0, model=weights(0.0))
    await answer_large(rig, "1/train/1", 1, 3.0, model=weights(2.0))
    await close_round(rig, 1)
    assert rig.blobs.digests() == {app.bundle.digest, digest_of(weights(2.0))}
    await rig.stop()
    assert rig.blobs.digests() == set()


async def test_two_jobs_that_share_a_model_do_not_take_it_from_each_other(rig: Rig, app: App):
    await rig.deploy(app, token="a")
    first = rig.worker
    await rig.deploy(app, job_id="j2", token="b")
    model = pb.Payload(digest=rig.server.add(weights(0.0)), size=len(weights(0.0)))
    for job_id in ("j1", "j2"):
        rig.jobs.order(pb.TaskOrder(job_id=job_id, task_id="t", name="train", expects="full", model=model))
    await first.sent.wait("task")
    await rig.worker.sent.wait("task")
    await rig.stop("j1")
    assert rig.blobs.has(model.digest)
    await rig.stop("j2")
    assert rig.blobs.digests() == set()


async def test_after_a_restart_kept_answers_are_sent_again_once_the_job_is_back(rig: Rig, app: App):
    await rig.deploy(app)
    before = await answer_large(rig, "0/train/1", 0, 1.5)
    await rig.restart()
    rig.jobs.welcome(["j1"])
    await rig.deploy(app)
    assert await rig.reports.wait("answer") == before


async def test_after_a_reconnect_kept_answers_are_sent_again(rig: Rig, app: App):
    await rig.deploy(app)
    before = await answer_large(rig, "0/train/1", 0, 1.5)
    rig.jobs.welcome(["j1"])
    assert await rig.reports.wait("answer", 2) == before


async def test_the_words_about_jobs_that_are_not_here_change_nothing(rig: Rig, app: App):
    await rig.deploy(app)
    rig.jobs.order(pb.TaskOrder(job_id="j9", task_id="t"))
    rig.jobs.acknowledged(pb.AnswerAck(job_id="j9", task_id="t", refused=pb.Failure(message="no")))
    rig.jobs.closed(pb.RoundClosed(job_id="j9", round=3))
    await rig.stop("j8")
    assert rig.jobs.states() == {"j1": "ready"}
    assert len(rig.reports.all) == 2  # deployed, and j8's stop


async def test_ordered_again_while_a_refused_job_is_cleared_away_it_is_begun_anew(
    rig: Rig, app: App, monkeypatch
):
    """The site had no room for a moment, and its connection broke in that moment."""
    clearing, go_on = asyncio.Event(), asyncio.Event()
    end = SiteJob.stop

    async def slow(self, reason, grace):
        left = await end(self, reason, grace)
        clearing.set()
        await go_on.wait()
        return left

    monkeypatch.setattr(SiteJob, "stop", slow)
    rig.launcher.error = NoRoom("needs more than there is")
    rig.jobs.deploy(rig.offer(app))
    await clearing.wait()
    rig.launcher.error = None
    rig.jobs.deploy(rig.offer(app))
    await asyncio.sleep(0)
    go_on.set()
    deployed = await rig.reports.wait("deployed")
    assert (deployed.ready, deployed.refused.message) == (True, "")
    assert rig.jobs.states() == {"j1": "ready"}
