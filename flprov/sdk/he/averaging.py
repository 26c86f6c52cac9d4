# SPDX-License-Identifier: Apache-2.0
"""The server's side of an encrypted mean: what sites are asked for, what is verified, and the sum."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.he.ciphertexts import (
    Ciphertexts,
    EncryptedTensor,
    add_ciphertexts,
    is_encrypted,
    layout_of,
    read_ciphertexts,
    verify_alike,
    verify_readable,
)
from flprov.sdk.he.ckks import LIMIT, Ring
from flprov.sdk.he.exchange import OPEN, Keyed
from flprov.sdk.sites import Sites
from flprov.sdk.state import State

SAMPLES = 1024  # of a site, before anything is known of it
_OPAQUE = (UpdateKind.OPAQUE,)
_Shape = tuple[Sequence[EncryptedTensor], Tensors]


class EncryptedMean:
    """Asks for encrypted updates and adds them."""

    def __init__(self, sites: Sites, *, samples: int = 0) -> None:
        self._sites = sites
        self._samples = samples
        self._ring = Ring()

    def train(self, state: State, *, to: Sequence[str]) -> list[Update]:
        """Train from `state.model`, in clear or not; the updates whose ciphertexts are of this job.

        Raises:
            JobFailed: there are none.
        """
        scalars: Mapping[str, Scalar] = {"he.unit": self._unit(state), "he.limit": LIMIT / len(to)}
        updates = self._sites.broadcast("train", state.model, to=to, expects=_OPAQUE, scalars=scalars)
        shape = _shape_of(state.model)
        good = []
        for update in updates:
            try:
                found = read_ciphertexts(update.params)
                shape = shape or (found.layout, found.clear)
                self._verify(found, update, shape, float(scalars["he.unit"]))
                good.append(update)
            except UpdateRefused as error:
                print(f"flprov: the update of {update.site} is refused: {error}", file=sys.stderr)
        if not good:
            raise JobFailed("no site sent an update that can be added")
        return good

    def add(self, updates: Sequence[Update], state: State) -> Tensors:  # noqa: ARG002
        """The sum of the updates: the new model, encrypted. Integer tensors are those of the largest share."""
        shares = [update.share for update in updates]
        if not any(shares):
            raise JobFailed(
                "there is nothing to average: the updates have a total weight of 0",
                hint="send `samples` (or `weight`) with each update",
            )
        terms = [read_ciphertexts(update.params) for update in updates]
        heaviest = terms[shares.index(max(shares))]
        return add_ciphertexts(terms, heaviest.clear, self._ring).tensors()

    def open(self, model: Tensors, keyed: Sequence[str]) -> Tensors:
        """The model in clear, as the first of the sites that have the key opens it."""
        found = read_ciphertexts(model)
        (opened,) = self._sites.broadcast(
            OPEN, model, to=keyed[:1], expects=_OPAQUE, scalars={"he.terms": len(self._sites.names)}
        )
        return _verify_opened(opened, found)

    def remember(self, keyed: Keyed, updates: Sequence[Update]) -> Mapping[str, Scalar]:
        """What the next round has to know."""
        total = math.fsum(update.share for update in updates)
        return {"he.key": keyed.key, "he.unit": 2.0 ** math.ceil(math.log2(total))}

    def _unit(self, state: State) -> float:
        """What weights are divided by, so that they add up to about 1: a power of two, which is exact."""
        guess = float(self._samples or SAMPLES * len(self._sites.names))
        return float(state.scalars.get("he.unit", 2.0 ** math.ceil(math.log2(guess))))

    def _verify(self, found: Ciphertexts, update: Update, shape: _Shape, unit: float) -> None:
        verify_alike(found, *shape)
        if found.total != update.share / unit:
            raise UpdateRefused(f"its weight is {update.share:g}, but {found.total * unit:g} was encrypted")
        verify_readable(found, self._ring)


def _shape_of(model: Tensors) -> _Shape | None:
    if not model:
        return None
    if is_encrypted(model):
        found = read_ciphertexts(model)
        return found.layout, found.clear
    layout = layout_of(model)
    named = {tensor.name for tensor in layout}
    return layout, {name: array for name, array in model.items() if name not in named}


def _verify_opened(opened: Update, found: Ciphertexts) -> Tensors:
    """What the opening site sent, if it is a model like the one that it was to open."""
    layout, clear = _shape_of(opened.params) or ((), {})
    try:
        verify_alike(Ciphertexts(**{**vars(found), "layout": tuple(layout), "clear": clear}), found.layout, found.clear)
    except UpdateRefused as error:
        raise JobFailed(f"{opened.site} opened another model than it was given: {error}") from error
    return opened.params
