# SPDX-License-Identifier: Apache-2.0
"""Federated averaging (McMahan, Moore, Ramage, Hampson, Agüera y Arcas: "Communication-Efficient
Learning of Deep Networks from Decentralized Data", AISTATS 2017), Algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from flprov.sdk.aggregation import weighted_mean
from flprov.sdk.judging import keep_alike
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.measuring import measure_round
from flprov.sdk.workflows.options import verify_fraction


@dataclass(frozen=True, kw_only=True)
class FedAvg:
    """w(t+1) = sum over k in S(t) of n(k)/n · w(k, t+1), where site k trained from w(t) on n(k) samples.

    S(t) is a random set of max(1, C · K) of the K sites, C is `fraction`. E and B, the local epochs and
    the batch size, are the site's own and come from `args`. Where the app has a task "evaluate", each
    round ends by measuring the new model at every site. Without a model to start from, round 0 averages
    what the sites start with.
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        verify_fraction(self.fraction)

    def run(self, sites: Sites, state: State) -> None:
        """Average for as many rounds as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            sites.commit(self._average(sites, state))

    def _average(self, sites: Sites, state: State) -> State:
        """One round; before it is committed its updates are let go of, and their files serve the next one."""
        updates = sites.train(state.model, to=sites.sample(self.fraction))
        updates = keep_alike(sites, updates, state.model)
        model = weighted_mean(updates, state.model)
        return state.next(model=model, metrics=measure_round(sites, updates, model))
