# SPDX-License-Identifier: Apache-2.0
"""Federated averaging of models that the server cannot read: McMahan et al. (see `fedavg.py`) with the
sum taken over CKKS ciphertexts, as in Phong, Aono, Hayashi, Wang, Moriai: "Privacy-Preserving Deep
Learning via Additively Homomorphic Encryption" (IEEE TIFS 13(5), 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Update
from flprov.sdk.aggregation import mean_metrics
from flprov.sdk.he.averaging import EncryptedMean
from flprov.sdk.he.exchange import share_key
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.options import verify_fraction


@dataclass(frozen=True, kw_only=True)
class FedAvgHE:
    """w(t+1) = sum over k in S(t) of n(k)/n · w(k, t+1); the server sees n(k) and the metrics, but no w.

    Each site encrypts n(k)/u · w(k, t+1), for a public u near n; the server adds ciphertexts; the sites
    decrypt the sum and divide it by n/u. Trainers see weights in clear, as with `fedavg`. The first
    model, if job.yml names one, is public. At the end one site opens the last sum. With `release: false`
    the result is ciphertext, and the key beside it, for those who have the sites' own secret.
    """

    fraction: float = 1.0
    release: bool = True
    samples: int = 0  # about how many samples all sites have; 0: 1024 each. Only round 0 looks at it

    def __post_init__(self) -> None:
        verify_fraction(self.fraction)
        if self.samples < 0:
            raise ConfigError(f"workflow.samples is {self.samples}; it must not be negative")

    def run(self, sites: Sites, state: State) -> None:
        """Average for as many rounds as the job asks."""
        mean = EncryptedMean(sites, samples=self.samples)
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            keyed = share_key(sites, state, needs_secret=not self.release)
            updates = mean.train(state, to=sites.sample(self.fraction, among=keyed.sites))
            self._verify_several(sites, updates)
            model = mean.add(updates)
            metrics = mean_metrics(updates)
            if sites.has("evaluate"):
                metrics |= mean_metrics(sites.evaluate(model, to=keyed.sites))
            state = state.next(model=model, metrics=metrics, scalars=mean.remember(keyed, updates))
            state = sites.judge(state)
            if sites.is_last(state):
                finish = mean.release if self.release else mean.withhold
                state = finish(state, keyed.sites)
            sites.commit(state)

    def _verify_several(self, sites: Sites, updates: Sequence[Update]) -> None:
        """The mean of one site is its weights, and what is released the server sees."""
        heavy = [update.site for update in updates if update.share]
        if self.release and len(heavy) == 1 < len(sites.names):
            raise JobFailed(
                f"{heavy[0]} alone sent weights in this round: their mean would show the server what"
                " they are",
                hint="let two sites or more be needed (`sites: {min: 2}`), and a `fraction` that asks two",
            )
