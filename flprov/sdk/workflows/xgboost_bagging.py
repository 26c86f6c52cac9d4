# SPDX-License-Identifier: Apache-2.0
"""Tree-based bagging for XGBoost: each round every site grows trees on the ensemble of all, and the
ensemble takes them all in (NVIDIA FLARE's "tree-based bagging"; the ensemble is that of Chen, Guestrin:
"XGBoost: A Scalable Tree Boosting System", KDD 2016, equation 2).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flprov._base import canonical_json
from flprov.errors import ConfigError, JobFailed, UpdateRefused
from flprov.messages import Tensors, Update, UpdateKind
from flprov.sdk.judging import keep_sound
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.workflows.boosters import Booster, add_round, encode_booster, read_booster
from flprov.sdk.workflows.measuring import measure_round

TENSOR = "booster"  # of the model and of every update: the booster as JSON, in bytes


@dataclass(frozen=True, kw_only=True)
class XGBoostBagging:
    """F(t+1) = F(t) + sum over sites k of n(k)/n · f(k, t+1), where site k fitted f(k, t+1) to F(t).

    Site k sends the trees of one boosting round as `booster.save_raw("json")`, in the opaque tensor
    "booster"; their leaves are multiplied by its share of the samples. With one site it is XGBoost. The
    sites' bytes are read by our own code, never by XGBoost's, which trusts what it loads; a booster that is
    none, or does not go with the others, is refused, and the round goes on without it.

    Attributes:
        trees: how many trees a site may add in a round, per class; XGBoost's `num_parallel_tree`.
    """

    trees: int = 1

    def __post_init__(self) -> None:
        if self.trees < 1:
            raise ConfigError(f"workflow.trees is {self.trees}; it must be at least 1")

    def run(self, sites: Sites, state: State) -> None:
        """Let the ensemble grow for as many rounds as the job asks."""
        for state in sites.rounds(state):  # noqa: B020 - each round starts with what the last committed
            updates = sites.broadcast("train", state.model, expects=(UpdateKind.OPAQUE,))
            ensemble, parts = self._accept(sites, updates, state.model)
            updates = [update for update in updates if update.site in parts]
            model = self._grow(ensemble, updates, parts)
            sites.commit(state.next(model=model, metrics=measure_round(sites, updates, model)))

    def _accept(
        self, sites: Sites, updates: Sequence[Update], model: Tensors
    ) -> tuple[Booster, Mapping[str, Booster]]:
        """The ensemble so far, and the sites' boosters that go with it; the others are refused."""
        found: dict[str, Booster] = {}

        def read(update: Update) -> None:
            found[update.site] = self._read(update)

        readable = keep_sound(sites, updates, read)
        ensemble = _read_ensemble(model) if model else _begin(found)
        alike = keep_sound(
            sites,
            readable,
            lambda update: _verify_alike(found[update.site], ensemble, update.site),
            hint="give every site the same parameters, base_score among them",
        )
        return ensemble, {update.site: found[update.site] for update in alike}

    def _grow(self, ensemble: Booster, updates: Sequence[Update], found: Mapping[str, Booster]) -> Tensors:
        total = math.fsum(update.share for update in updates)
        if not total:
            raise JobFailed("the updates have a total weight of 0", hint="send `samples` with each update")
        parts = [(found[update.site], update.share / total) for update in updates]
        try:
            whole = encode_booster(add_round(ensemble, parts))
        except ValueError as error:
            raise JobFailed(str(error)) from error
        return {TENSOR: np.frombuffer(whole, dtype=np.uint8)}

    def _read(self, update: Update) -> Booster:
        """What a site sent. Raises UpdateRefused."""
        array = update.params.get(TENSOR)
        if array is None or len(update.params) > 1 or array.dtype != np.uint8 or array.ndim != 1:
            raise UpdateRefused(f"{update.site} sent something else than one uint8 tensor {TENSOR!r}")
        try:
            booster = read_booster(array.tobytes())
        except ValueError as error:
            raise UpdateRefused(f"the booster of {update.site} is refused: {error}") from error
        classes = max(int(booster.head["learner_model_param"]["num_class"]), 1)
        if not 1 <= len(booster.trees) <= self.trees * classes:
            raise UpdateRefused(
                f"{update.site} sent {len(booster.trees)} trees; a round takes 1 to {self.trees * classes}",
                hint="send the last round alone: booster[-1:]; `trees` in job.yml allows more",
            )
        return booster


def _begin(found: Mapping[str, Booster]) -> Booster:
    """An ensemble without trees, of the kind that most sites' boosters are; of as many, the first site's."""
    heads = Counter(canonical_json(booster.head) for booster in found.values())
    (wanted, _), *_ = heads.most_common(1)
    first = next(booster for booster in found.values() if canonical_json(booster.head) == wanted)
    return replace(first, trees=(), groups=(), bounds=(0,))


def _read_ensemble(model: Tensors) -> Booster:
    """The trees so far. Raises JobFailed."""
    array = model.get(TENSOR)
    if array is None or len(model) > 1:
        raise JobFailed(
            f"the model that the job starts from is no ensemble of trees, which is one tensor {TENSOR!r}",
            hint="leave out `model` in job.yml, or name the model.safetensors of another xgboost_bagging job",
        )
    try:
        return read_booster(array.tobytes())
    except ValueError as error:
        raise JobFailed(
            f"the ensemble so far cannot be read: {error}",
            hint="if it has grown too large: fewer rounds, or trees of less depth",
        ) from error


def _verify_alike(booster: Booster, ensemble: Booster, site: str) -> None:
    """Raise UpdateRefused if its trees cannot be added to the ensemble's."""
    for name, value in ensemble.head.items():
        if booster.head[name] != value:
            raise UpdateRefused(f"the booster of {site} has another {name} than the ensemble")
