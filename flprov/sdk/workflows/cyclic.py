# SPDX-License-Identifier: Apache-2.0
"""Cyclic weight transfer (Chang, Balachandar, Lam, Yi, Brown, Beers, Rosen, Rubin, Kalpathy-Cramer:
"Distributed deep learning networks among institutions for medical imaging", JAMIA 25(8), 2018): the
model goes from site to site, and each trains on from where the one before it stopped.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.measuring import measure_round


class Order(enum.Enum):
    """In which order the sites take their turns."""

    FIXED = "fixed"  # by name, the same in each round
    RANDOM = "random"  # another one in each round, which follows from workflow.seed


@dataclass(frozen=True, kw_only=True)
class Cyclic:
    """One round is one cycle: every site trains once, for as long as its `args` say.

    Nothing is averaged and no weight counts. Without a model to start from, the first site begins with
    its own.
    """

    order: Order = Order.FIXED

    def run(self, sites: Sites, state: State) -> None:
        """Go round as often as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            turns = self._turns(sites.names, sites.seed, state.round)
            model, updates = sites.relay("train", state.model, turns)
            sites.commit(state.next(model=model, metrics=measure_round(sites, updates, model)))

    def _turns(self, names: Sequence[str], seed: int, number: int) -> list[str]:
        if self.order is Order.FIXED:
            return list(names)
        return [names[place] for place in np.random.default_rng([seed, number]).permutation(len(names))]
