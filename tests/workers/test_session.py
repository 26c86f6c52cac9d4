# SPDX-License-Identifier: Apache-2.0
"""A session without a process: the frames are lists."""

import signal
from dataclasses import replace

import numpy as np
import pytest

from flprov._base import canonical_json
from flprov.errors import Misuse, NotFound, ProtocolError, Unavailable
from flprov.jobs import Filters, JobSpec, Workflow
from flprov.messages import Update, UpdateKind
from flprov.wire import encode_tensors, pb, read_tensors, write_tensors
from flprov.workers.scripts import SIGTERM_STATUS
from flprov.workers.session import open_session

SPEC = JobSpec(name="toy", tasks={"train": "train.py"})
SEALED = Workflow(type="fedavg_he", options={"release": False})


class FakeFrames:
    """Receives what it was made with: messages, None for the end, or something to call first."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def receive(self):
        message = self.messages.pop(0)
        return message() if callable(message) else message


def start(spec=SPEC, **datasets):
    document = canonical_json(spec)
    return pb.ToWorker(start_site=pb.StartSite(job_id="j", site="a", spec=document, datasets=datasets))


def task(model=None, *, name="train", expects="full,diff", scalars=b"{}"):
    payload = model or pb.Payload(inline=encode_tensors({"w": np.zeros(2)}))
    order = pb.TaskOrder(
        job_id="j", task_id="0/train/0", name=name, expects=expects, model=payload, scalars=scalars
    )
    return pb.ToWorker(task=order)


def make(tmp_path, *messages):
    frames = FakeFrames(start(), *messages)
    return open_session(frames, tmp_path), frames


def test_a_session_begins_with_its_start(tmp_path):
    for first, error in [(None, Unavailable), (task(), ProtocolError)]:
        with pytest.raises(error):
            open_session(FakeFrames(first), tmp_path)


@pytest.mark.parametrize("document", [b"", b"[]", b'{"name": 3}', b"\xff", b'{"name": "x", "name": "y"}'])
def test_a_job_that_cannot_be_read_is_refused(document, tmp_path):
    message = pb.ToWorker(start_site=pb.StartSite(job_id="j", site="a", spec=document))
    with pytest.raises(ProtocolError, match="cannot be read"):
        open_session(FakeFrames(message), tmp_path)


def test_waiting_again_gives_the_same_task_until_it_is_taken(tmp_path):
    session, frames = make(tmp_path, task())
    assert session.wait_task() is session.wait_task() is session.open
    assert frames.messages == []


@pytest.mark.parametrize(
    ("spec", "name", "said"),
    [
        (SPEC, "flprov.he.share", "is for jobs of fedavg_he"),
        (replace(SPEC, workflow=SEALED), "flprov.he.open", "`release: false`"),
        (SPEC, "flprov.he.none", "is for jobs of fedavg_he"),
        (SPEC, "flprov.none", "does not know"),
    ],
)
def test_our_own_code_does_what_the_signed_job_wants_and_no_more(tmp_path, spec, name, said):
    frames = FakeFrames(start(spec), task(name=name, expects="opaque"), None)
    assert open_session(frames, tmp_path).wait_task() is None
    assert said in frames.sent[0].answer.failure.message


def test_quit_and_the_end_of_the_channel_are_the_end(tmp_path):
    for last in (pb.ToWorker(quit=pb.Quit()), None):
        session, _ = make(tmp_path, last)
        assert session.wait_task() is None
        assert session.wait_task() is None
        assert session.over


def test_a_message_that_is_no_task_is_refused(tmp_path):
    session, _ = make(tmp_path, pb.ToWorker(saved=pb.RoundSaved()))
    with pytest.raises(ProtocolError, match="'saved', not a task"):
        session.wait_task()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ".", "..", "a/b"])
def test_a_model_is_only_read_from_the_folder_in(name, tmp_path):
    (tmp_path / "in").mkdir()
    write_tensors(tmp_path / "secret", {"w": np.zeros(2)})
    session, frames = make(tmp_path, task(pb.Payload(file=name)), None)
    assert session.wait_task() is None
    assert "not a bare file name" in frames.sent[0].answer.failure.message


def test_a_model_that_cannot_be_read_fails_its_task_only(tmp_path):
    bad = [pb.Payload(file="gone"), pb.Payload(digest="00"), pb.Payload(inline=b"pickle"), pb.Payload()]
    session, frames = make(tmp_path, *map(task, bad), task())
    assert session.wait_task() is not None
    failures = [message.answer.failure for message in frames.sent]
    assert [failure.code for failure in failures] == ["not-found"] + ["protocol-error"] * 3


@pytest.mark.parametrize(
    ("row", "most"),
    [
        ({"type": "clip_norm", "max_norm": 1.0}, 1.001),
        ({"type": "clip", "limit": 0.5}, 0.75),
        ({"type": "exclude", "names": ("w",)}, 0.0),
        ({"type": "gaussian_noise", "epsilon": 8.0, "delta": 1e-5, "max_norm": 1.0, "seed": 1}, 10.0),
    ],
)
def test_filters_compare_with_the_model_that_came_also_if_the_trainer_steps_in_it(tmp_path, row, most):
    spec = replace(SPEC, filters=Filters(result_site=(row,)))
    frames = FakeFrames(start(spec), task(), task())
    session = open_session(frames, tmp_path)
    session.load_filters()
    for kept in (False, True):
        given = session.wait_task().task.params["w"]
        new = given.copy() if kept else given
        new += 100.0
        session.answer(Update(params={"w": new}, samples=1))
    for message in frames.sent:
        sent = read_tensors(message.answer.update.tensors.inline)["w"]
        assert np.linalg.norm(sent) <= most


def test_a_difference_is_encrypted_as_the_weights_that_it_leads_to_also_if_the_trainer_steps_in_the_model(
    tmp_path,
):
    pytest.importorskip("tenseal")
    from flprov.sdk.he.ciphertexts import decrypt_tensors, read_ciphertexts
    from flprov.sdk.he.ckks import Cipher
    from flprov.sdk.he.keys import SiteKeys

    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    order = task(expects="opaque", scalars=b'{"he.unit": 1.0, "he.limit": 1000.0}')
    frames = FakeFrames(start(replace(SPEC, workflow=Workflow(type="fedavg_he"))), order)
    session = open_session(frames, tmp_path)
    key = SiteKeys(session.site).make()
    given = session.wait_task().task.params["w"]
    given += 3.0
    session.answer(Update(params={"w": np.full(2, 3.0)}, kind=UpdateKind.DIFF, samples=1))
    found = frames.sent[0].answer.update.tensors
    sent = read_ciphertexts(read_tensors(tmp_path / "out" / found.file if found.file else found.inline))
    np.testing.assert_allclose(decrypt_tensors(sent, Cipher(key.secret))["w"], 3.0, atol=1e-3)


def test_a_task_that_is_answered_twice_is_answered_once(tmp_path):
    session, frames = make(tmp_path, task())
    session.wait_task()
    session.answer(Update(params={"w": np.zeros(2)}))
    with pytest.raises(Misuse, match="no task was open"):
        session.answer(Update(params={"w": np.zeros(2)}))
    assert len(frames.sent) == 1


def test_an_update_that_is_refused_leaves_the_task_open(tmp_path):
    session, frames = make(tmp_path, task(expects="full"))
    session.wait_task()
    with pytest.raises(Misuse):
        session.answer(Update(params={"w": np.zeros(2)}, kind=UpdateKind.DIFF))
    session.answer(Update(params={"w": np.zeros(2)}))
    assert frames.sent[0].answer.update.kind == "full"


def test_numbers_of_numpy_and_torch_become_plain_ones(tmp_path):
    import torch

    session, frames = make(tmp_path, task())
    session.wait_task()
    metrics = {"loss": torch.tensor(0.5), "auc": np.float32(0.25), "n": 3}
    session.answer(
        Update(params={"w": np.zeros(2)}, samples=np.int64(7), weight=np.float32(2), metrics=metrics)
    )
    update = frames.sent[0].answer.update
    assert (update.samples, update.weight) == (7, 2.0)
    assert dict(update.metrics) == {"loss": 0.5, "auc": 0.25, "n": 3.0}


def test_a_metric_of_many_numbers_is_refused_by_name(tmp_path):
    session, _ = make(tmp_path, task())
    session.wait_task()
    with pytest.raises(Misuse, match="metric 'loss'"):
        session.answer(Update(params={"w": np.zeros(2)}, metrics={"loss": np.zeros(3)}))


def test_datasets_are_those_of_the_start(tmp_path):
    session = open_session(FakeFrames(start(heart="/data/heart")), tmp_path)
    assert str(session.site.data("heart")) == "/data/heart"
    with pytest.raises(NotFound):
        session.site.data("lungs")


def test_sigterm_while_waiting_ends_the_wait(tmp_path):
    def interrupted():
        session.on_sigterm(signal.SIGTERM, None)

    session, _ = make(tmp_path, interrupted)
    assert session.wait_task() is None
    assert session.over
    assert session.aborted()


def test_sigterm_ends_the_script_unless_it_looks(tmp_path):
    session, _ = make(tmp_path)
    with pytest.raises(SystemExit) as caught:
        session.on_sigterm(signal.SIGTERM, None)
    assert caught.value.code == SIGTERM_STATUS
    session, _ = make(tmp_path)
    assert not session.aborted()
    session.on_sigterm(signal.SIGTERM, None)
    assert session.aborted()


def test_after_sigterm_there_is_no_task_even_if_one_is_there(tmp_path):
    session, _ = make(tmp_path, task())
    session.wait_task()
    session.aborted()
    session.on_sigterm(signal.SIGTERM, None)
    assert session.wait_task() is None
