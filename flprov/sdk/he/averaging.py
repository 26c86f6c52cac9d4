# SPDX-License-Identifier: Apache-2.0
"""The server's side of an encrypted mean: what sites are asked for, what is verified, and the sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Scalar, Tensors, Update
from flprov.sdk.he.ciphertexts import (
    Ciphertexts,
    Shape,
    add_ciphertexts,
    count_pieces,
    is_encrypted,
    most_alike,
    read_ciphertexts,
    split_model,
    verify_alike,
    verify_opened,
    verify_readable,
)
from flprov.sdk.he.ckks import LIMIT, Ring
from flprov.sdk.he.exchange import OPAQUE, Keyed, ask_any
from flprov.sdk.he.opening import KEY_FILE
from flprov.sdk.he.rates import describe_rates
from flprov.sdk.judging import judge
from flprov.sdk.sites import Sites
from flprov.sdk.state import State

OPEN, LOCK = "flprov.he.open", "flprov.he.lock"
SAMPLES = 1024  # of a site, before anything is known of it


class EncryptedMean:
    """Asks for encrypted updates and adds them."""

    def __init__(self, sites: Sites, *, samples: int = 0) -> None:
        self._sites = sites
        self._samples = samples
        self._ring = Ring()
        self._told = False

    def train(self, state: State, *, to: Sequence[str]) -> list[Update]:
        """Train from `state.model`, in clear or not; the updates whose ciphertexts are of this job.

        Raises:
            JobFailed: there are none.
        """
        scalars: Mapping[str, Scalar] = {"he.unit": self._unit(state), "he.limit": LIMIT / len(to)}
        asked = self._sites.start("train", state.model, to=to, expects=OPAQUE, scalars=scalars)
        shape, unit = shape_of(state.model), float(scalars["he.unit"])
        self._tell_cost(shape)
        read: dict[str, Ciphertexts] = {}

        def verify(update: Update) -> None:
            read[update.site] = self.verify(update, shape, unit=unit)

        good, _ = judge(asked.updates(), verify, asked.refuse)
        if shape is None and good:  # without a model, the weights of most sites
            wanted = most_alike(read.values())
            good, _ = judge(good, lambda update: verify_alike(read[update.site], *wanted), asked.refuse)
            self._tell_cost(wanted)
        if not good:
            raise JobFailed("no site sent an update that can be added")
        return good

    def verify(self, update: Update, shape: Shape | None, *, unit: float) -> Ciphertexts:
        """What is in `update`, if each of its ciphertexts is one of this job, and all are a model of `shape`.

        Raises:
            UpdateRefused: the message names the tensor.
        """
        found = read_ciphertexts(update.params)
        if shape is not None:
            verify_alike(found, *shape)
        if found.total != update.share / unit:
            raise UpdateRefused(f"its weight is {update.share:g}, but {found.total * unit:g} was encrypted")
        verify_readable(found, self._ring)
        return found

    def add(self, updates: Sequence[Update]) -> Tensors:
        """The sum of the updates: the new model, encrypted. Integer tensors: those of the largest share."""
        shares = [update.share for update in updates]
        if not any(shares):
            raise JobFailed(
                "there is nothing to average: the updates have a total weight of 0",
                hint="send `samples` (or `weight`) with each update",
            )
        terms = [read_ciphertexts(update.params) for update in updates]
        heaviest = terms[shares.index(max(shares))]
        return add_ciphertexts(terms, heaviest.clear, self._ring).tensors()

    def release(self, state: State, keyed: Sequence[str]) -> State:
        """`state` with its models in clear: the last one, and the best one, if that is another."""
        model, best = self._open(state.model, keyed), state.best
        if best is not None and best.round == state.round - 1:
            best = replace(best, model=model)
        elif best is not None:
            best = replace(best, model=self._open(best.model, keyed))
        return replace(state, model=model, best=best)

    def withhold(self, state: State, keyed: Sequence[str]) -> State:
        """`state` as it is, with the secret key for those who have the sites' own secret beside it."""
        given = ask_any(self._sites, keyed, LOCK, {}, gives=("locked",)).params["locked"]
        return replace(state, results={**state.results, KEY_FILE: {"key": given.tobytes().hex()}})

    def _open(self, model: Tensors, keyed: Sequence[str]) -> Tensors:
        """The model as one of the sites that have the key opens it."""
        if not is_encrypted(model):
            return model
        terms = {"he.terms": len(self._sites.names)}
        opened = ask_any(self._sites, keyed, OPEN, model, scalars=terms)
        try:
            verify_opened(opened.params, read_ciphertexts(model))
        except UpdateRefused as error:
            raise JobFailed(f"{opened.site} opened another model than it was given: {error}") from error
        return opened.params

    def remember(self, keyed: Keyed, updates: Sequence[Update]) -> Mapping[str, Scalar]:
        """What the next round has to know."""
        total = math.fsum(update.share for update in updates)
        return {"he.key": keyed.key, "he.unit": 2.0 ** math.ceil(math.log2(total))}

    def _tell_cost(self, shape: Shape | None) -> None:
        """Write what a round costs into the job's log, once, as soon as the model is known."""
        if not self._told and shape is not None:
            self._told = True
            print(describe_rates(count_pieces(shape[0]), len(self._sites.names)), flush=True)

    def _unit(self, state: State) -> float:
        """What weights are divided by, so that they add up to about 1: a power of two, which is exact."""
        guess = float(self._samples or SAMPLES * len(self._sites.names))
        return float(state.scalars.get("he.unit", 2.0 ** math.ceil(math.log2(guess))))


def shape_of(model: Tensors) -> Shape | None:
    """The names, dtypes and shapes of a model, in clear or not; None of no model."""
    if not model:
        return None
    if is_encrypted(model):
        found = read_ciphertexts(model)
        return found.layout, found.clear
    return split_model(model)
