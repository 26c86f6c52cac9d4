# SPDX-License-Identifier: Apache-2.0
"""What a task requires has to be looked at: by functions, by scripts, in scalars and in tensors."""

import numpy as np
import pytest

from flprov._base import canonical_json
from flprov.errors import Misuse
from flprov.jobs import JobSpec, Membership
from flprov.messages import Update
from flprov.sdk import Correction
from flprov.wire import encode_tensors, pb
from flprov.workers.session import open_session

MODEL = {"w": np.zeros(2)}


class Frames:
    def __init__(self, *messages):
        self.messages = list(messages)
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def receive(self):
        return self.messages.pop(0)


def begin(tmp_path, *requires, train=None, spec=None):
    spec = spec or JobSpec(name="toy", tasks={"train": "train.py"})
    order = pb.TaskOrder(
        job_id="j",
        task_id="0/train/0",
        name="train",
        expects="full,diff",
        model=pb.Payload(inline=encode_tensors(MODEL)),
        scalars=b'{"mu":0.5,"other":1}',
        extra=pb.Payload(inline=encode_tensors({"w": np.ones(2), "v": np.ones(1)})),
        requires=requires,
    )
    start = pb.StartSite(job_id="j", site="a", spec=canonical_json(spec))
    frames = Frames(pb.ToWorker(start_site=start), pb.ToWorker(task=order), None)
    session = open_session(frames, tmp_path)
    if train is not None:
        session.functions["train"] = train
    session.wait_task()
    return session, frames


UPDATE = Update(params=MODEL, samples=1)


def with_correction(task):
    Correction(task).apply({"w": np.zeros(2)}, MODEL, lr=0.1)


@pytest.mark.parametrize(
    ("requires", "look"),
    [
        (["mu"], lambda task: task.scalars["mu"]),
        (["mu"], lambda task: task.scalars.get("mu", 0)),
        (["mu", "other"], lambda task: dict(task.scalars)),
        (["extra"], lambda task: task.extra["v"]),
        (["w"], lambda task: task.extra["w"]),
        (["extra"], lambda task: list(task.extra.values())),
        (["mu", "extra"], with_correction),
        ([], lambda task: None),
    ],
)
def test_a_trainer_that_looks_is_heard(tmp_path, requires, look):
    def train(task, site):
        look(task)
        return UPDATE

    _, frames = begin(tmp_path, *requires, train=train)
    assert frames.sent[-1].answer.WhichOneof("outcome") == "update"


@pytest.mark.parametrize(
    ("requires", "look", "named"),
    [
        (["mu"], lambda task: None, "mu"),
        (["mu"], lambda task: task.scalars["other"], "mu"),
        (["mu"], lambda task: "mu" in task.scalars, "mu"),
        (["extra"], lambda task: (len(task.extra), list(task.extra)), "extra"),
        (["w"], lambda task: task.extra["v"], "w"),
        (["mu", "extra"], lambda task: task.extra["w"], "mu"),
        (["mu"], lambda task: repr(task), "mu"),
    ],
)
def test_one_that_passes_over_what_is_required_fails_its_task(tmp_path, requires, look, named):
    def train(task, site):
        look(task)
        return UPDATE

    _, frames = begin(tmp_path, *requires, train=train)
    failure = frames.sent[-1].answer.failure
    assert f"requires its trainer to use {named}, and it never looked there" in failure.message
    assert "fl.correct_gradients" in failure.hint


def test_a_script_may_still_look_after_it_was_told(tmp_path):
    session, frames = begin(tmp_path, "mu")
    with pytest.raises(Misuse, match="task 'train' of round 0 requires its trainer to use mu"):
        session.answer(UPDATE)
    assert session.open.task.scalars["mu"] == 0.5
    session.answer(UPDATE)
    assert len(frames.sent) == 1


def test_what_is_noted_is_of_this_task_alone(tmp_path):
    session, _ = begin(tmp_path, "mu")
    assert session.open.looked == set()
    session.open.task.scalars.get("nothing")
    assert "mu" not in session.open.looked


def test_an_update_that_would_count_too_much_is_told_at_the_site(tmp_path):
    spec = JobSpec(name="toy", tasks={"train": "train.py"}, sites=Membership(max_weight=100.0))
    session, _ = begin(tmp_path, spec=spec)
    for update, said in [
        (Update(params=MODEL, samples=101), "samples is 101; the job's sites.max_weight is 100"),
        (Update(params=MODEL, samples=1, weight=100.5), "weight is 100.5; the job's"),
    ]:
        with pytest.raises(Misuse, match=said):
            session.answer(update)
    session.answer(Update(params=MODEL, samples=1000, weight=100.0))
