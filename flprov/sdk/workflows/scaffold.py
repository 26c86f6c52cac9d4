# SPDX-License-Identifier: Apache-2.0
"""SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning", ICML 2020), Algorithm 1 with option II: each site's steps are corrected for how its
gradients differ from everybody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flprov.errors import ConfigError, JobFailed, UpdateRefused
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.aggregation import mean_difference, moment_dtype, weighted_mean
from flprov.sdk.correction import STEP_SUM
from flprov.sdk.elementwise import Wide, calculate
from flprov.sdk.judging import keep_sound
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.measuring import measure_round
from flprov.sdk.workflows.options import verify_fraction
from flprov.sdk.workflows.steering import RUNNING_STATISTICS, steered_names


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """Site i steps along g(y) - c(i) + c from y = x on, where c(i) is its control variate, c the mean of all.

    After K steps of learning rate eta at the sites S of N:

        c(i) = c(i) - c + (x - y(i)) / (K · eta)
        x    = x + lr · mean over S of (y(i) - x)
        c    = c + |S| / N · mean over S of what c(i) has changed, which is the mean of all c(i)

    The sites keep nothing: the server remembers every c(i), sends c - c(i) as `extra` with the task, and
    gets K · eta back as the metric "step_sum". A trainer adds `extra` to its gradients and takes plain
    steps of SGD (`fl.correct_gradients`, or `flprov.sdk.Correction`); one that never looks at it fails.
    The paper's means count every site the same; with `weighted` each counts by its samples, as in FedAvg.
    Tensors that match `average` are averaged and have no control variate.
    """

    lr: float = 1.0
    fraction: float = 1.0
    weighted: bool = False
    average: str = RUNNING_STATISTICS

    def __post_init__(self) -> None:
        verify_fraction(self.fraction)
        if not self.lr > 0:
            raise ConfigError(f"workflow.lr is {self.lr}; it must be above 0")

    def run(self, sites: Sites, state: State) -> None:
        """Step for as many rounds as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            sites.commit(self._next(sites, state))

    def _next(self, sites: Sites, state: State) -> State:
        """One round; before it is committed its updates are let go of, and their files serve the next one."""
        if not state.model:
            raise JobFailed("scaffold has no model to correct steps from", hint="set `model` in job.yml")
        names = steered_names(state.model, self.average)
        overall = _variate(state, "all", names)
        own = {site: _variate(state, f"site/{site}", names) for site in sites.names}
        updates, renewed = self._train(sites, state.model, overall, own)
        own |= renewed
        shares = {**state.scalars, **{f"share/{update.site}": update.share for update in updates}}
        model = self._step(updates, state.model, names)
        return state.next(
            model=model,
            tensors=_flatten(self._mean(own, shares), own),
            scalars=shares,
            metrics=measure_round(sites, [_without_step_sum(update) for update in updates], model),
        )

    def _train(
        self, sites: Sites, model: Tensors, overall: Tensors, own: Mapping[str, Tensors]
    ) -> tuple[list[Update], Mapping[str, Tensors]]:
        """The updates from which a control variate follows, and these by site; the others are refused."""
        there = sites.sample(self.fraction)
        shifts = {site: _difference(overall, own[site]) for site in there}
        updates = sites.train(model, to=there, extra_of=shifts, requires=("extra",))
        hint = "call fl.correct_gradients(net, lr=...) in each step, or report Correction.metrics"
        renewed: dict[str, Tensors] = {}

        def renew(update: Update) -> None:
            _verify_steps(update)
            renewed[update.site] = _renew(update, model, overall, own[update.site])

        return keep_sound(sites, updates, renew, hint=hint), renewed

    def _step(self, updates: Sequence[Update], model: Tensors, names: Sequence[str]) -> Tensors:
        """x + lr times the mean of what the sites have changed; other tensors are averaged."""
        counted = updates if self.weighted else [replace(update, weight=1.0) for update in updates]
        averaged = weighted_mean(counted, model, names=set(model) - set(names))
        delta = mean_difference(counted, model, names=names)
        own = {name: model[name].dtype for name in names}
        [stepped] = calculate(lambda x, d: [x + self.lr * d], [model, delta], own)
        return {**averaged, **stepped} if averaged else stepped

    def _mean(self, own: Mapping[str, Tensors], shares: Mapping[str, Scalar]) -> Tensors:
        """The mean of all control variates; where samples count, of those whose samples are known."""
        weights = {site: float(shares.get(f"share/{site}", 0)) if self.weighted else 1.0 for site in own}
        return weighted_mean(
            Update(site=site, params=tensors, weight=weights[site]) for site, tensors in own.items()
        )


def _variate(state: State, whose: str, names: Sequence[str]) -> Tensors:
    """A control variate as it was saved; zeros before the first round."""
    found = {}
    for name in names:
        like = state.model[name]
        saved = state.tensors.get(f"{whose}/{name}")
        found[name] = np.zeros(like.shape, moment_dtype(like)) if saved is None else saved
    return found


def _flatten(overall: Tensors, own: Mapping[str, Tensors]) -> Tensors:
    whose = {"all": overall, **{f"site/{site}": tensors for site, tensors in own.items()}}
    return {f"{name}/{tensor}": array for name, tensors in whose.items() for tensor, array in tensors.items()}


def _difference(one: Tensors, other: Tensors) -> Tensors:
    [found] = calculate(lambda a, b: [a - b], [one, other], _dtypes(one))
    return found


def _dtypes(tensors: Tensors) -> Mapping[str, np.dtype[Any]]:
    return {name: array.dtype for name, array in tensors.items()}


def _renew(update: Update, model: Tensors, overall: Tensors, own: Tensors) -> Tensors:
    """Option II: c(i) - c + (x - y(i)) / (K · eta). Raises UpdateRefused if that leaves its range."""
    steps = update.metrics[STEP_SUM]
    full = update.kind is UpdateKind.FULL

    def rule(own: Wide, overall: Wide, x: Wide, y: Wide) -> Sequence[Wide]:
        return [own - overall + ((x - y) if full else -y) / steps]

    try:
        [found] = calculate(rule, [own, overall, model, update.params], _dtypes(own))
    except JobFailed as error:
        raise UpdateRefused(
            f"{STEP_SUM} of {update.site} is {steps}: its control variate's {error}"
        ) from error
    return found


def _verify_steps(update: Update) -> None:
    """Raise UpdateRefused if the sum of its steps is none to divide by. Finite it is: the runtime looks."""
    found = update.metrics.get(STEP_SUM)
    if found is None:
        raise UpdateRefused(
            f"{update.site} sent no metric {STEP_SUM!r}, the sum of its steps' learning rates"
        )
    if not found > 0:
        raise UpdateRefused(f"{STEP_SUM} of {update.site} is {found}; it must be above 0")


def _without_step_sum(update: Update) -> Update:
    return replace(update, metrics={k: v for k, v in update.metrics.items() if k != STEP_SUM})
