# SPDX-License-Identifier: Apache-2.0
"""SCAFFOLD (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: "SCAFFOLD: Stochastic Controlled Averaging for
Federated Learning", ICML 2020), Algorithm 1 with option II: each site's steps are corrected for how its
gradients differ from everybody's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flprov.errors import ConfigError, JobFailed, UpdateRefused
from flprov.messages import Tensors, Update, UpdateKind
from flprov.sdk.aggregation import Array, mean_difference, moment_dtype, weighted_mean
from flprov.sdk.elementwise import calculate
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.measuring import measure_round
from flprov.sdk.workflows.steering import RUNNING_STATISTICS, steered_names

STEP_SUM = "step_sum"  # the metric in which a trainer reports K · lr: the sum of its steps' learning rates


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
        if not self.lr > 0:
            raise ConfigError(f"workflow.lr is {self.lr}; it must be above 0")

    def run(self, sites: Sites, state: State) -> None:
        """Step for as many rounds as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            if not state.model:
                raise JobFailed("scaffold corrects steps from a model; set `model` in job.yml")
            names = steered_names(state.model, self.average)
            variates = {site: _variate(state, f"site/{site}", names) for site in sites.names}
            overall = _variate(state, "all", names)
            updates = self._train(sites, state.model, overall, variates)
            for update in updates:
                variates[update.site] = _renew(update, state.model, overall, variates[update.site])
            shares = state.scalars | {f"share/{update.site}": self._share(update) for update in updates}
            ...
