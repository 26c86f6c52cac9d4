# SPDX-License-Identifier: Apache-2.0
"""One run of each workflow that flprov comes with, for the tests that hold for all of them.

A new workflow needs a case here: its options, how its sites answer, and what it starts from.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from ports import FakePort
from site_answers import bag_stumps, describe_digits

from flprov.errors import UpdateRefused
from flprov.messages import Update, UpdateKind
from flprov.sdk import Selection, Sites, State, build_controller
from flprov.wire import encode_tensors, format_kinds, tensor_infos, verify_numbers, verify_update

SAMPLES = {"a": 10, "b": 30, "c": 7}


def first_model():
    """Weights, a buffer that is only averaged, and a counter."""
    return {
        "layer.weight": np.float32([[0.1, 2.0], [1e-3, -4.0]]),
        "norm.running_var": np.float32([1.0, 0.5]),
        "norm.num_batches_tracked": np.array([5]),
    }


def train(ask, site):
    """Noise that follows from all that the site was sent, so that a lost bit of state shows."""
    if ask.name == "evaluate":
        return Update(
            samples=SAMPLES[site], metrics={"error": float(np.abs(ask.model["layer.weight"]).sum())}
        )
    sent = encode_tensors({**ask.model, "extra": np.concatenate([np.zeros(1), *_extra(ask, site)])})
    digest = hashlib.sha256(sent + f"{ask.round}/{site}/{sorted(ask.scalars.items())}".encode()).digest()
    source = np.random.default_rng(list(digest))
    new = {
        name: (array + source.standard_normal(array.shape)).astype(array.dtype)
        for name, array in ask.model.items()
    }
    metrics = {"loss": float(source.random()), "step_sum": 0.5}
    if site != "b":
        return Update(params=new, samples=SAMPLES[site], metrics=metrics)
    change = {name: array - ask.model[name] for name, array in new.items()}
    return Update(params=change, kind=UpdateKind.DIFF, samples=SAMPLES[site], metrics=metrics)


def _extra(ask, site):
    return [array.reshape(-1) for array in ask.extra_of.get(site, ask.extra).values()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What `verify` needs to run one workflow."""

    type: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    answer: Callable[..., Any] = train
    tasks: tuple[str, ...] = ("train", "evaluate")
    names: tuple[str, ...] = ("a", "b", "c")
    total: int = 3
    model: Callable[[], Any] = first_model
    best: str | None = "error"
    trains: bool = True  # its sites answer with weights, which the runtime checks

    def __str__(self):
        return "-".join([self.type, *map(str, self.options.values())])

    def run(self, port, state=None):
        """Run it on `port`, which is returned."""
        controller = build_controller(self.type, None, self.options)
        selection = Selection(best=self.best, mode="min")
        sites = Sites(port, names=self.names, tasks=self.tasks, total=self.total, seed=7, selection=selection)
        controller.run(sites, state or State(model=self.model()))
        return port


CASES = [
    Case(type="cross_site_evaluation", best=None, trains=False),
    Case(type="cyclic"),
    Case(type="cyclic", options={"order": "random"}),
    Case(type="fedavg"),
    Case(type="fedavg", options={"fraction": 0.5}),
    Case(type="federated_evaluation", best=None, trains=False),
    Case(type="federated_statistics", answer=describe_digits, tasks=("statistics",), best=None, trains=False),
    Case(type="fedopt"),
    Case(type="fedopt", options={"optimizer": "adagrad"}),
    Case(type="fedopt", options={"optimizer": "adam"}),
    Case(type="fedopt", options={"optimizer": "yogi"}),
    Case(type="fedprox", options={"mu": 0.1}),
    Case(type="scaffold", options={"fraction": 0.7}),
    Case(type="scaffold", options={"weighted": True}),
    Case(type="xgboost_bagging", answer=bag_stumps, tasks=("train",), model=dict, best=None, trains=False),
]


class ShuffledPort(FakePort):
    """Answers come in another order with each `seed`."""

    def __init__(self, answer, seed):
        super().__init__(answer)
        self.source = np.random.default_rng(seed)

    def wait(self, tasks):
        fitting = [answer for answer in self.waiting if answer.task_id in tasks]
        chosen = fitting[self.source.integers(len(fitting))]
        self.waiting.remove(chosen)
        last = all(answer.task_id != chosen.task_id for answer in self.waiting)
        return dataclasses.replace(chosen, last=last)


class CheckedPort(FakePort):
    """Updates pass through the checks of the agent and the server; a refused one is an absent one."""

    def __init__(self, answer):
        super().__init__(lambda ask, site: self.check(ask, answer(ask, site)))
        self.refusals = []

    def check(self, ask, update):
        """The update, or why it was refused."""
        if isinstance(update, str):
            return update
        infos = tensor_infos(encode_tensors(ask.model)) if ask.model else None
        try:
            verify_numbers(update.samples, update.weight, update.metrics)
            data = encode_tensors(update.params)
            verify_update(infos, data, update.kind.value, format_kinds(ask.expects))
        except UpdateRefused as error:
            self.refusals.append(str(error))
            return str(error)
        return update
