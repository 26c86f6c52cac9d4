# SPDX-License-Identifier: Apache-2.0
"""The site's last word on tensors: its policy's filters, whatever the job and its process do."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from agent_parties import App, write_app
from agent_rig import Rig

from flprov._base import parse_json
from flprov.agent.answers import Answers
from flprov.blobs import digest_of
from flprov.errors import LocalError
from flprov.messages import Encoding, Precision
from flprov.wire import encode_tensors, parse_frame, pb, read_tensors, round_into, tensor_infos

ALLOW = "allow: {organisations: [org-a]}\n"
CLIP = ALLOW + "filters: {result: [{type: clip_norm, max_norm: 1}]}\n"
NOISE = ALLOW + "filters: {result: [{type: gaussian_noise, epsilon: 1, delta: 1e-5, max_norm: 1}]}\n"
MODEL = {"w": np.ones(4, np.float32), "n": np.array([3])}
TRAINED = {"w": np.float32([4, 5, 1, 1]), "n": np.array([4])}  # 5 away from the model
BIG = {"w": np.zeros(400_000, np.float32)}


def payload(tensors, **named):
    data = encode_tensors(tensors, **named)
    return pb.Payload(inline=data, size=len(data))


def order(model=MODEL, *, name="train", number=0, expects="full,diff"):
    task = pb.TaskOrder(job_id="j1", task_id=f"{number}/{name}/1", name=name, round=number, rounds=3)
    task.expects = expects
    if model:
        task.model.CopyFrom(model if isinstance(model, pb.Payload) else payload(model))
    return task


def sent(tensors, kind="full", **fields):
    return pb.UpdateMessage(kind=kind, tensors=tensors, samples=7, **fields)


class Site:
    """A rig whose policy is `policy`, with the job j1 deployed."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    async def order(self, task: pb.TaskOrder) -> pb.TaskOrder:
        before = len(self.rig.worker.sent.of("task"))
        self.rig.jobs.order(task)
        return await self.rig.worker.sent.wait("task", before + 1)

    async def answers(self, task: pb.TaskOrder, update: pb.UpdateMessage) -> pb.TaskAnswer:
        before = len(self.rig.reports.of("answer"))
        self.rig.worker.say(answer=pb.TaskAnswer(task_id=task.task_id, update=update))
        return await self.rig.reports.wait("answer", before + 1)

    def put_out(self, tensors, name: str = "u") -> pb.Payload:
        data = encode_tensors(tensors)
        (self.rig.folder() / "out" / name).write_bytes(data)
        return pb.Payload(file=name, size=len(data))


@pytest.fixture
def site_with(rig: Rig, app: App):
    async def make(policy: str, job: App = app) -> Site:
        rig.config.policy.write_text(policy)
        deployed = await rig.deploy(job)
        assert deployed.ready, deployed.refused.message
        return Site(rig)

    return make


async def test_an_update_is_clipped_that_the_job_does_not_clip(site_with):
    site = await site_with(CLIP)
    task = order()
    await site.order(task)
    answer = await site.answers(task, sent(payload(TRAINED, metadata={"format": "pt"}), metrics={"auc": 0.5}))
    found = read_tensors(answer.update.tensors.inline)
    np.testing.assert_allclose(found["w"], [1.6, 1.8, 1, 1], rtol=1e-6)
    assert found["n"].tolist() == [4]
    assert (answer.update.samples, dict(answer.update.metrics)) == (7, {"auc": 0.5})
    assert b'"format":"pt"' in answer.update.tensors.inline


async def test_a_large_one_too_and_what_the_process_sent_is_kept_nowhere(site_with, rig: Rig):
    site = await site_with(CLIP)
    task = order(pb.Payload(digest=rig.server.add(encode_tensors(BIG)), size=len(encode_tensors(BIG))))
    await site.order(task)
    trained = {"w": np.full(400_000, 1.0, np.float32)}
    answer = await site.answers(task, sent(site.put_out(trained)))
    digest = answer.update.tensors.digest
    found = read_tensors(rig.server.received.path(digest))
    assert np.linalg.norm(found["w"].astype(float)) == pytest.approx(1, rel=1e-6)
    assert digest in rig.blobs.digests()
    assert digest_of(encode_tensors(trained)) not in rig.blobs.digests()
    assert list((rig.folder() / "site").iterdir()) == []
    assert list((rig.folder() / "out").iterdir()) == []


async def test_noise_is_drawn_once_and_said_again_as_the_same_bytes(site_with, rig: Rig):
    site = await site_with(NOISE)
    task = order()
    await site.order(task)
    first = await site.answers(task, sent(payload(TRAINED)))
    noisy = read_tensors(first.update.tensors.inline)
    assert np.abs(noisy["w"] - TRAINED["w"]).max() > 0
    assert noisy["n"].tolist() == [3]  # an integer has no noise, and nothing of the site
    rig.jobs.order(task)  # the server has lost the answer
    again = await rig.reports.wait("answer", 2)
    assert again.update == first.update
    await rig.restart()
    rig.jobs.order(task)
    # The job is not deployed any more, but the answer is on the disk as it left.
    assert [kept.update for kept in rig.jobs._answers.of("j1")] == [first.update]


async def test_an_agent_that_is_gone_before_it_has_written_the_answer_down_has_sent_nothing(
    site_with, rig: Rig, monkeypatch
):
    site = await site_with(NOISE)
    task = order(BIG)
    await site.order(task)
    update = sent(site.put_out(BIG))
    at_keep = asyncio.Event()

    async def hang(*_args, **_named):
        at_keep.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "keep", hang)
        rig.worker.say(answer=pb.TaskAnswer(task_id=task.task_id, update=update))
        await at_keep.wait()
        assert rig.reports.of("answer") == []
        assert rig.server.uploads == []
        unsent = rig.blobs.digests()
        await rig.come_back()
    rig.worker.say(resumed=pb.Resumed(task_id=task.task_id))
    rig.worker.say(answer=pb.TaskAnswer(task_id=task.task_id, update=update))
    answer = await rig.reports.wait("answer", 1)
    assert [one.digest for one in rig.server.uploads] == [answer.update.tensors.digest]
    assert answer.update.tensors.digest not in unsent  # other noise; the first has left nowhere
    assert (unsent & rig.blobs.digests()) == {rig.jobs._jobs["j1"].admitted.submission.app}


async def test_a_difference_that_travelled_small_is_read_and_what_is_not_changed_travels_small_again(
    site_with,
):
    site = await site_with(ALLOW + "filters: {result: [{type: clip_norm, max_norm: 100}]}\n")
    model = {"w": np.zeros(10_000, np.float32)}
    trained = {"w": np.zeros(10_000, np.float32)}
    mark = Encoding(precision=Precision.INT8)
    round_into(np.linspace(-0.1, 0.1, 10_000, dtype=np.float32), trained["w"], mark)
    task = order(model)
    await site.order(task)
    small = payload(trained, encoding={"w": mark})
    answer = await site.answers(task, sent(small, kind="diff"))
    assert answer.update.tensors.size == small.size < 11_000
    assert np.array_equal(read_tensors(answer.update.tensors.inline)["w"], trained["w"])


async def test_job_code_sees_the_model_as_the_policy_lets_it_and_is_compared_with_that(site_with, rig: Rig):
    policy = ALLOW + (
        "filters:\n  task: [{type: exclude, names: ['n', absent.*]}, {type: clip, limit: 0.5}]\n"
        "  result: [{type: clip, limit: 1}]\n"
    )
    site = await site_with(policy)
    task = order()
    given = await site.order(task)
    seen = read_tensors(rig.folder() / "in" / given.model.file)
    assert (seen["w"].tolist(), seen["n"].tolist()) == ([0.5] * 4, [0])
    answer = await site.answers(task, sent(payload(TRAINED)))
    assert read_tensors(answer.update.tensors.inline)["w"].tolist() == [1.5, 1.5, 1, 1]


async def test_metrics_without_tensors_pass(site_with):
    site = await site_with(NOISE)
    task = order(expects="")
    await site.order(task)
    answer = await site.answers(task, sent(payload({}), metrics={"auc": 0.9}))
    assert dict(answer.update.metrics) == {"auc": 0.9}


async def test_texts_beside_the_tensors_do_not_pass_the_filters_by(site_with):
    site = await site_with(CLIP)
    said = {"format": "pt", "patient": "Smith, 1962"}
    for number, tensors in enumerate([TRAINED, {}]):
        task = order(number=number, expects="full,diff" if tensors else "")
        await site.order(task)
        answer = await site.answers(task, sent(payload(tensors, metadata=said)))
        assert b"Smith" not in answer.update.SerializeToString()


async def test_what_no_version_of_ours_knows_does_not_leave_with_an_update(site_with):
    """Protobuf keeps fields that it does not know, and copies them."""
    site = await site_with(NOISE)
    task = order()
    await site.order(task)
    said = b"Smith, 1962;" * 9
    stray = b"\x82\x7d" + bytes([len(said)]) + said  # field 2000, as bytes
    update = sent(payload(TRAINED)).SerializeToString() + stray
    inner = pb.FromWorker(answer=pb.TaskAnswer(update=pb.UpdateMessage.FromString(update)))
    assert b"Smith" in inner.SerializeToString()
    heard = parse_frame(pb.FromWorker, inner.SerializeToString())
    answer = await site.answers(task, heard.answer.update)
    assert answer.HasField("update")
    assert b"Smith" not in answer.SerializeToString()


async def test_an_order_that_comes_while_the_last_promised_update_is_written_down_is_refused(
    site_with, rig: Rig, monkeypatch
):
    site = await site_with(NOISE)
    for number in range(4):
        task = order(number=0, name=f"train{number}")
        await site.order(task)
        await site.answers(task, sent(payload(TRAINED)))
    fifth, sixth = order(name="fifth"), order(name="sixth")
    await site.order(fifth)
    writing, written = asyncio.Event(), asyncio.Event()
    keep = Answers.keep

    async def slowly(self, *given, **named):
        writing.set()
        await written.wait()
        await keep(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Answers, "keep", slowly)
        rig.worker.say(answer=pb.TaskAnswer(task_id=fifth.task_id, update=sent(payload(TRAINED))))
        await writing.wait()
        rig.jobs.order(sixth)
        written.set()
        found = [await rig.reports.wait("answer", number) for number in (5, 6)]
    said = {one.task_id: one for one in found}
    assert said[fifth.task_id].HasField("update")
    assert "promises privacy for 5 updates of this job" in said[sixth.task_id].failure.message
    assert len(rig.worker.sent.of("task")) == 5


async def test_an_update_that_could_not_be_written_down_is_not_counted(site_with, rig: Rig, monkeypatch):
    site = await site_with(NOISE)
    keep = Answers.keep

    async def full(self, answer, **named):
        if answer.HasField("update"):
            raise LocalError("the disk is full")
        await keep(self, answer, **named)

    for number in range(6):
        task = order(number=0, name=f"train{number}")
        await site.order(task)
        with monkeypatch.context() as patch:
            if number == 0:
                patch.setattr(Answers, "keep", full)
            answer = await site.answers(task, sent(payload(TRAINED)))
        assert answer.HasField("update") == (number > 0)


async def test_no_more_updates_leave_than_the_private_filters_promise_for(site_with, rig: Rig):
    site = await site_with(NOISE)
    for number in range(5):  # as many as the job has rounds, of one round and all about the same data
        task = order(number=0, name=f"train{number}")
        await site.order(task)
        assert (await site.answers(task, sent(payload(TRAINED)))).HasField("update")
    rig.jobs.order(order(name="once-more"))
    answer = await rig.reports.wait("answer", 6)
    assert "promises privacy for 5 updates of this job" in answer.failure.message
    task = order(name="evaluate", expects="")  # metrics are no such thing
    await site.order(task)
    assert (await site.answers(task, sent(payload({}), metrics={"auc": 0.9}))).HasField("update")


async def test_filters_that_promise_nothing_count_nothing(site_with):
    site = await site_with(CLIP)
    for number in range(7):
        task = order(number=0, name=f"train{number}")
        await site.order(task)
        assert (await site.answers(task, sent(payload(TRAINED)))).HasField("update")


@pytest.mark.parametrize(
    ("task", "update", "said"),
    [
        (
            order(expects="opaque"),
            sent(payload({"c": np.zeros(3, np.uint8)}), kind="opaque"),
            "to an opaque one",
        ),
        (
            order(None, expects="full"),
            sent(payload(TRAINED)),
            "compares an update with the model of its task",
        ),
    ],
)
async def test_what_cannot_be_filtered_does_not_leave(site_with, task, update, said):
    site = await site_with(CLIP)
    await site.order(task)
    answer = await site.answers(task, update)
    assert answer.failure.code == "update-refused"
    assert said in answer.failure.message


async def test_a_worker_that_names_tensors_of_another_size_or_kind_passes_no_filter_by(site_with):
    """It can send `diff` instead of `full`, but not more than the norm either way."""
    site = await site_with(CLIP)
    task = order()
    await site.order(task)
    answer = await site.answers(task, sent(payload(TRAINED), kind="diff"))
    found = read_tensors(answer.update.tensors.inline)["w"]
    assert np.linalg.norm(found) <= 1 + 1e-6


@pytest.mark.parametrize("type_", ["fedavg_he", "federated_statistics", "xgboost_bagging"])
async def test_a_job_whose_updates_no_filter_can_read_is_refused_when_deployed(rig: Rig, tmp_path, type_):
    rig.config.policy.write_text(CLIP)
    app = write_app(tmp_path / "apps" / "other", job=f"workflow: {{type: {type_}, rounds: 2}}\n")
    deployed = await rig.deploy(app)
    assert not deployed.ready
    assert f"filters every update (clip_norm), and the updates of {type_} are" in deployed.refused.message


TASKS = ALLOW + "filters: {task: [{type: clip, limit: 1}]}\n"


@pytest.mark.parametrize("type_", ["fedavg_he", "federated_statistics", "scaffold"])
async def test_a_job_that_sends_what_no_filter_of_models_can_read_is_refused_when_deployed(
    rig: Rig, tmp_path, type_
):
    rig.config.policy.write_text(TASKS)
    app = write_app(tmp_path / "apps" / "other", job=f"workflow: {{type: {type_}, rounds: 2}}\n")
    deployed = await rig.deploy(app)
    assert not deployed.ready
    assert f"filters every model that comes, and {type_} sends" in deployed.refused.message


async def test_tensors_beside_the_model_do_not_pass_the_filters_by(site_with, rig: Rig):
    site = await site_with(TASKS)
    task = order()
    task.extra.CopyFrom(payload({"w": np.full(4, 9, np.float32)}))
    rig.jobs.order(task)
    answer = await rig.reports.wait("answer", 1)
    assert answer.failure.code == "policy-refused"
    assert "task 'train' brings tensors beside the model" in answer.failure.message
    assert rig.worker.sent.of("task") == []
    await site.order(order(number=1))


SECRET = encode_tensors({"w": np.full(4, 9, np.float32), "n": np.array([3])})


@pytest.mark.parametrize("field", ["model", "extra"])
@pytest.mark.parametrize(
    "lie",
    [
        pb.Payload(inline=SECRET),
        pb.Payload(inline=SECRET, size=1),
        pb.Payload(digest=digest_of(SECRET)),
        pb.Payload(file="000001.safetensors", size=len(SECRET)),
        pb.Payload(size=3),
    ],
    ids=["inline", "inline-1", "digest", "file", "nothing"],
)
async def test_tensors_that_are_said_to_be_none_do_not_pass_the_filters_by(site_with, rig: Rig, field, lie):
    site = await site_with(TASKS)
    rig.server.add(SECRET)
    rig.jobs.foretold(pb.Upcoming(job_id="j1", model=pb.Payload(digest=digest_of(SECRET), size=len(SECRET))))
    async with asyncio.timeout(20):
        while digest_of(SECRET) not in rig.blobs.digests():
            await asyncio.sleep(0)
    task = order()
    getattr(task, field).CopyFrom(lie)
    rig.jobs.order(task)
    answer = await rig.reports.wait("answer", 1)
    assert answer.failure.code in ("protocol-error", "policy-refused")
    assert rig.worker.sent.of("task") == []
    await site.order(order(number=1))


async def test_an_update_that_counts_more_than_the_job_allows_does_not_leave(site_with, tmp_path):
    job = write_app(tmp_path / "apps" / "bounded", job="sites: {max_weight: 5}\n")
    site = await site_with(CLIP, job)
    task = order()
    await site.order(task)
    answer = await site.answers(task, sent(payload(TRAINED)))
    assert answer.failure.code == "update-refused"
    assert "7" in answer.failure.message
    assert "5" in answer.failure.message


async def test_a_task_that_the_policy_refuses_is_not_handed_over(site_with, rig: Rig):
    site = await site_with(ALLOW + "tasks: {refuse: [submit_model]}\n")
    rig.jobs.order(order(name="submit_model"))
    answer = await rig.reports.wait("answer", 1)
    assert answer.failure.message == "the policy of this site refuses task 'submit_model'"
    assert rig.worker.sent.of("task") == []
    await site.order(order(number=1))


async def test_the_process_is_told_the_site_s_rules_of_statistics(site_with, rig: Rig):
    await site_with(ALLOW + "statistics: {min_count: 25, extremes: never}\n")
    start = rig.worker.sent.of("start_site")[0]
    assert json.loads(start.statistics) == {"extremes": "never", "max_bins_percent": 10.0, "min_count": 25}


async def test_the_log_of_the_job_and_a_plan_say_what_the_site_does(site_with, rig: Rig, app: App):
    await site_with(NOISE)
    log = (rig.folder() / "log").read_bytes()
    assert b"policy.yml of this site: updates that leave: gaussian_noise: the difference is clipped" in log
    deploy = rig.offer(app, job_id="j2", token="another")
    rig.jobs.probe(
        pb.Probe(probe_id="p", submission=deploy.submission, signature=deploy.signature, chain=deploy.chain)
    )
    probed = await rig.reports.wait("probed", 1)
    assert "(1, 1e-05)-differentially private" in parse_json(probed.notes)["filters"][0]


def test_infos_of_what_travels_small_are_those_of_what_it_becomes():
    mark = Encoding(precision=Precision.INT8)
    ready = np.zeros(100, np.float32)
    assert tensor_infos(encode_tensors({"w": ready}, {}, {"w": mark})) == tensor_infos(
        encode_tensors({"w": ready})
    )
