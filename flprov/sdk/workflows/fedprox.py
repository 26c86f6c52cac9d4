# SPDX-License-Identifier: Apache-2.0
"""FedProx (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: "Federated Optimization in Heterogeneous
Networks", MLSys 2020), Algorithm 2: federated averaging whose sites are held near the model they got.
"""

from __future__ import annotations

from dataclasses import dataclass

from flprov.errors import ConfigError
from flprov.sdk.aggregation import weighted_mean
from flprov.sdk.judging import keep_alike
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.measuring import measure_round
from flprov.sdk.workflows.options import verify_fraction


@dataclass(frozen=True, kw_only=True)
class FedProx:
    """Site k minimises h(w) = F(k, w) + mu/2 · ||w - w(t)||² from w(t) on; the server averages as FedAvg.

    The gradient of the second term is mu · (w - w(t)): the trainer has to add it (`fl.correct_gradients`,
    or `flprov.sdk.Correction`), and fails if it never looked at `mu`. The paper samples sites with
    probability n(k)/n and takes the plain mean; this samples evenly and weighs by n(k), as its authors'
    own code does. With mu = 0 it is FedAvg.
    """

    mu: float
    fraction: float = 1.0

    def __post_init__(self) -> None:
        verify_fraction(self.fraction)
        if not self.mu >= 0:
            raise ConfigError(f"workflow.mu is {self.mu}; it must not be negative")

    def run(self, sites: Sites, state: State) -> None:
        """Average for as many rounds as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            sites.commit(self._average(sites, state))

    def _average(self, sites: Sites, state: State) -> State:
        """One round; before it is committed its updates are let go of, and their files serve the next one."""
        there = sites.sample(self.fraction)
        updates = sites.train(state.model, to=there, scalars={"mu": self.mu}, requires=("mu",))
        updates = keep_alike(sites, updates, state.model)
        model = weighted_mean(updates, state.model)
        return state.next(model=model, metrics=measure_round(sites, updates, model))
