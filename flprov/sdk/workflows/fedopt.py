# SPDX-License-Identifier: Apache-2.0
"""FedOpt (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: "Adaptive Federated
Optimization", ICLR 2021), Algorithms 1 and 2: the mean difference of the sites is the server's gradient.
With sgd and momentum it is FedAvgM (Hsu, Qi, Brown: "Measuring the Effects of Non-Identical Data
Distribution for Federated Visual Classification", 2019).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flprov.errors import ConfigError
from flprov.messages import Tensors, Update
from flprov.sdk.aggregation import mean_difference, moment_dtype, weighted_mean
from flprov.sdk.elementwise import Wide, calculate
from flprov.sdk.judging import keep_alike
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.measuring import measure_round
from flprov.sdk.workflows.options import verify_fraction
from flprov.sdk.workflows.steering import RUNNING_STATISTICS, steered_names


class ServerOptimizer(enum.Enum):
    """What the server does with the mean difference D(t) of the sites."""

    SGD = "sgd"  # b = momentum · b + D;  x = x + lr · b
    ADAM = "adam"  # v = beta2 · v + (1 - beta2) · D²
    YOGI = "yogi"  # v = v - (1 - beta2) · D² · sign(v - D²)
    ADAGRAD = "adagrad"  # v = v + D²


# The options of each. Betas and tau are those of the paper's experiments, and of Flower's FedAdam, FedYogi
# and FedAdagrad. Nobody has an lr that fits all: the paper searches a grid for each task, Flower begins at
# 0.01 (yogi) and 0.1 (adam, adagrad). At 0.1 a weight moves by up to 0.1 a round under adam, too much where
# rounds are few; so adam begins at 0.01 here.
OPTIONS: Mapping[ServerOptimizer, Mapping[str, float]] = {
    ServerOptimizer.SGD: {"lr": 1.0, "momentum": 0.9},
    ServerOptimizer.ADAM: {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    ServerOptimizer.YOGI: {"lr": 0.01, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3},
    ServerOptimizer.ADAGRAD: {"lr": 0.1, "beta1": 0.0, "tau": 1e-3},
}


@dataclass(frozen=True, kw_only=True)
class FedOpt:
    """x(t+1) = the optimizer's step from x(t), with D(t) = sum of n(k)/n · (x(k, t) - x(t)) for -gradient.

    For adam, yogi and adagrad, m = beta1 · m + (1 - beta1) · D and x(t+1) = x(t) + lr · m / (sqrt(v) + tau),
    from m = 0 and v = tau², without a correction of the bias: that is Algorithm 2, and not what torch's
    Adam does. Options that are not given are those of `OPTIONS`. Tensors that match `average` are averaged
    and not optimised. Moments are kept in float32 (in float64 for a model in float64), steps are made in
    float64. Without a model to start from, round 0 averages what the sites start with.
    """

    optimizer: ServerOptimizer = ServerOptimizer.SGD
    lr: float | None = None
    momentum: float | None = None
    beta1: float | None = None
    beta2: float | None = None
    tau: float | None = None
    fraction: float = 1.0
    average: str = RUNNING_STATISTICS

    def __post_init__(self) -> None:
        verify_fraction(self.fraction)
        known = OPTIONS[self.optimizer]
        for name in ("lr", "momentum", "beta1", "beta2", "tau"):
            value = getattr(self, name)
            if value is None:
                continue
            if name not in known:
                what = f"{self.optimizer.value} has no such option; it has {', '.join(known)}"
                raise ConfigError(f"workflow.{name}: {what}")
            if name in ("lr", "tau") and not value > 0:
                raise ConfigError(f"workflow.{name} is {value}; it must be above 0")
            if name not in ("lr", "tau") and not 0 <= value < 1:
                raise ConfigError(f"workflow.{name} is {value}; it must be at least 0 and below 1")

    def run(self, sites: Sites, state: State) -> None:
        """Step for as many rounds as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            sites.commit(self._next(sites, state))

    def _next(self, sites: Sites, state: State) -> State:
        """One round; before it is committed its updates are let go of, and their files serve the next one."""
        updates = sites.train(state.model, to=sites.sample(self.fraction))
        updates = keep_alike(sites, updates, state.model)
        model, moments = self._step(updates, state)
        return state.next(model=model, tensors=moments, metrics=measure_round(sites, updates, model))

    def _step(self, updates: Sequence[Update], state: State) -> tuple[Tensors, Tensors]:
        if not state.model:
            return weighted_mean(updates), {}
        steered = steered_names(state.model, self.average)
        averaged = weighted_mean(updates, state.model, names=set(state.model) - set(steered))
        delta = mean_difference(updates, state.model, names=steered)
        slots = self._slots()
        before = [
            {name: state.tensors.get(f"{slot}/{name}", first) for name in steered}
            for slot, first in slots.items()
        ]
        rule = self._momentum if self.optimizer is ServerOptimizer.SGD else self._adaptive
        own = {name: state.model[name].dtype for name in steered}
        kept = {name: moment_dtype(state.model[name]) for name in steered}
        model, *moments = calculate(rule, [state.model, delta, *before], own, *[kept] * len(slots))
        named = zip(slots, moments, strict=True)
        return {**averaged, **model} if averaged else model, {
            f"{slot}/{name}": array for slot, tensors in named for name, array in tensors.items()
        }

    def _slots(self) -> Mapping[str, float]:
        """What is remembered of each tensor, and what it starts with."""
        if self.optimizer is ServerOptimizer.SGD:
            return {"momentum": 0.0} if self._option("momentum") else {}
        return {"m": 0.0, "v": self._option("tau") ** 2}

    def _option(self, name: str) -> float:
        value: float | None = getattr(self, name)
        return OPTIONS[self.optimizer][name] if value is None else value

    def _momentum(self, x: Wide, delta: Wide, *before: Wide) -> Sequence[Wide]:
        step = delta + self._option("momentum") * before[0] if before else delta
        return (x + self._option("lr") * step, step) if before else (x + self._option("lr") * step,)

    def _adaptive(self, x: Wide, delta: Wide, m: Wide, v: Wide) -> Sequence[Wide]:
        beta1, square = self._option("beta1"), np.square(delta)
        m = beta1 * m + (1 - beta1) * delta
        match self.optimizer:
            case ServerOptimizer.ADAM:
                v = self._option("beta2") * v + (1 - self._option("beta2")) * square
            case ServerOptimizer.YOGI:
                v = v - (1 - self._option("beta2")) * square * np.sign(v - square)
            case _:
                v = v + square
        return x + self._option("lr") * m / (np.sqrt(v) + self._option("tau")), m, v
