# SPDX-License-Identifier: Apache-2.0
"""The client API: what a training script adds to become federated.

    import flprov.client as fl

    fl.init()
    while fl.is_running():
        model = fl.receive()                 # .params: {name: ndarray or tensor}, .round
        ...                                  # train
        fl.send(fl.Model(params=new, metrics={"accuracy": 0.91}, samples=303))

Calls block; there is nothing to configure. The names are those that users of FLARE's client API know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flprov.errors import Misuse
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk import TORCH, Correction, as_tensors, read_step, read_values
from flprov.workers import OpenTask, Session, adopt_channel, current_session, open_session, use_session

__all__ = [
    "Model",
    "aborted",
    "correct_gradients",
    "dataset",
    "init",
    "is_evaluate",
    "is_running",
    "is_train",
    "job_id",
    "log",
    "receive",
    "send",
    "site_name",
    "task_name",
]


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a task brings, and what the script sends back.

    `params` is what `load_state_dict` takes when the model is a torch module's, else numpy arrays; to
    send, either will do. In the first round of a job without `model` it is empty: start from your own.
    """

    params: Mapping[str, Any] | Sequence[Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0  # how many examples stand behind `params`; the weight in the mean
    weight: float | None = None  # instead of `samples`, where these are not the right weight
    kind: UpdateKind | str = UpdateKind.FULL  # "full": new weights; "diff": new minus received; "opaque"
    round: int = 0  # 0-based
    rounds: int = 0  # how many the job means to run
    task: str = ""  # "train", "evaluate", ...
    scalars: Mapping[str, Scalar] = field(default_factory=dict)  # what the workflow adds to the task
    extra: Tensors = field(default_factory=dict)  # tensors that the workflow adds to it, as numpy arrays
    seed: int = 0  # 32 bits; the same for this site, round and task in every run of the same job.yml


def init() -> None:
    """Begin. Inside a job the session is there already; the call may be left out."""
    if current_session() is not None:
        return
    descriptor = os.environ.pop("FLPROV_CHANNEL_FD", "")
    if not descriptor.isdecimal():
        raise _outside()
    session = open_session(adopt_channel(int(descriptor)), Path.cwd().parent)
    session.load_filters()
    session.ready()
    use_session(session)


def is_running() -> bool:
    """Wait for the next task; False when there will be none. A task that was received must be answered."""
    return _session().wait_task() is not None


def receive() -> Model | None:
    """The model of the open task, waiting for one if there is none; None when the job is over."""
    session = _session()
    opened = session.open or session.wait_task()
    if opened is None:
        return None
    opened.taken = True
    params: Mapping[str, Any] = opened.task.params
    if opened.format == TORCH and params:
        from flprov.sdk import to_state_dict

        params = to_state_dict(opened.task.params)
    task = opened.task
    return Model(
        params=params,
        round=task.round,
        rounds=task.rounds,
        task=task.name,
        scalars=task.scalars,
        extra=task.extra,
        seed=task.seed,
    )


def correct_gradients(net: Any, *, lr: float) -> None:  # noqa: ANN401 - a torch.nn.Module
    """Add to the gradients of `net` what the job's workflow asks for: nothing, unless that is FedProx or
    SCAFFOLD.

    Once for each step, between `loss.backward()` and `optimizer.step()` (with a GradScaler: after its
    `unscale_`). `lr` is the learning rate of that step; where the workflow needs the sum of them, it is
    sent with the next update.

    Raises:
        Misuse: no task is open, `lr` is not a number above 0, or `net` has no parameter of the job's model.
    """
    opened = _open_task()
    if opened.correction is None:
        opened.correction = Correction(opened.task)
    opened.correction.apply_to(net, lr=lr)


def send(model: Model) -> None:
    """Answer the open task with `params` (none for a task that takes metrics only), `metrics`, `samples`.

    Raises:
        Misuse: no task is open, or the task does not take this; the task stays open.
    """
    try:
        kind = UpdateKind(model.kind)
    except ValueError:
        known = ", ".join(member.value for member in UpdateKind)
        raise Misuse(f"kind is {model.kind!r}; it must be one of {known}") from None
    session = _session()
    correction = session.open.correction if session.open is not None else None
    metrics = {**(correction.metrics if correction else {}), **model.metrics}
    params = model.params if isinstance(model.params, Mapping) else as_tensors(model.params)
    session.answer(
        Update(params=params, kind=kind, samples=model.samples, weight=model.weight, metrics=metrics)
    )


def log(name: str | Mapping[str, float], value: float | None = None, step: int | None = None) -> None:
    """Show a number to whoever watches the job, while the round goes on: `log("loss", 0.3)`, or several
    at once: `log({"loss": 0.3, "accuracy": 0.9}, step=120)`.

    `step` is the place on the curve's axis; left out, the numbers of each name are counted. What is not
    finite is only printed.

    Raises:
        Misuse: a value is not a number, or the step is not a whole number from 0 on.
    """
    if isinstance(name, Mapping):
        if value is not None:
            raise Misuse("log was given a mapping and a value", hint='log({"loss": 0.3}, step=120)')
        values = read_values(name)
    else:
        values = read_values({name: value})
    step = read_step(step)
    if values:
        _session().report(values, step)


def is_train() -> bool:
    """Whether the open task is "train"."""
    return _task_name() == "train"


def is_evaluate() -> bool:
    """Whether the open task is "evaluate"."""
    return _task_name() == "evaluate"


def task_name() -> str:
    """The name of the open task; empty when none is open."""
    return _task_name()


def site_name() -> str:
    """The name of the site that this script runs at."""
    return _session().site.name


def job_id() -> str:
    """The id of the job."""
    return _session().job_id


def dataset(name: str) -> Path:
    """The path that this site gives to the dataset `name`, which job.yml lists under `data`.

    Raises:
        NotFound: the job did not ask for it, or the site does not have it.
    """
    return _session().site.data(name)


def aborted() -> bool:
    """Whether the job is being stopped. A script that asks is left to end by itself, within the grace."""
    return _session().aborted()


def _task_name() -> str:
    opened = _session().open
    return "" if opened is None else opened.task.name


def _open_task() -> OpenTask:
    opened = _session().open
    if opened is None:
        raise Misuse("gradients were corrected while no task was open", hint="receive a task first")
    return opened


def _session() -> Session:
    session = current_session()
    if session is None:
        raise _outside()
    return session


def _outside() -> Misuse:
    return Misuse(
        "this script was not started by a flprov job",
        hint="try it with: flprov simulate APP -n 2",
    )
