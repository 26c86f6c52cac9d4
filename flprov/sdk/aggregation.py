# SPDX-License-Identifier: Apache-2.0
"""Aggregation: many updates to one model, tensor by tensor.

The order of arrival never shows in the result: updates are folded in the order of their sites'
names, in float64, with single roundings that IEEE 754 defines. Memory is that of the result: mapped
updates are read in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Tensors, Update, UpdateKind
from flprov.sdk.floats import all_finite, is_float, narrow, widen

Array = NDArray[np.generic]
_PIECE = 1 << 15  # elements; two float64 buffers of it fit into the cache of one core


def weighted_mean(
    updates: Iterable[Update], base: Tensors | None = None, *, names: Collection[str] | None = None
) -> Tensors:
    """The mean of the updates' tensors, each weighted by its `share` (`weight`, or else `samples`).

    A `diff` counts as `base` plus itself, so `full` and `diff` may be mixed. Integer and boolean
    tensors (a counter of batches, a mask) are never averaged: the new model takes those of the update
    with the largest share, of the first by site name among equals.

    Args:
        updates: at least one.
        base: the model that the task carried; needed where an update is a `diff`.
        names: the tensors to average; None means all.

    Returns:
        Tensors with the names, shapes and dtypes of the updates.

    Raises:
        JobFailed: there is nothing to average: no update, or a total weight of 0.
        UpdateRefused: an update is `opaque`, does not match the others, or the mean leaves the range of
            its dtype; the message names site and tensor.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    shares = _shares(ordered)
    _verify_alike(ordered, base)
    heaviest = shares.index(max(shares))
    found: dict[str, Array] = {}
    for name, first in ordered[0].params.items():
        if names is not None and name not in names:
            continue
        if is_float(first, name):
            found[name] = _fold(name, ordered, shares, base)
        else:
            found[name] = _whole(ordered[heaviest], name, base)
    return found


def mean_difference(
    updates: Iterable[Update], base: Tensors, *, names: Collection[str] | None = None
) -> Tensors:
    """The mean of the updates' differences from `base`, weighted as in `weighted_mean`.

    Not the difference of a mean: that would have lost the digits that its rounding took.

    Args:
        updates: at least one.
        base: the model that the task carried.
        names: floating-point tensors to take; None means all of them.

    Returns:
        Tensors in float64 where the model's are, and in float32 where they are narrower.

    Raises:
        JobFailed: there is nothing to average: no update, or a total weight of 0.
        UpdateRefused: as in `weighted_mean`.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    shares = _shares(ordered)
    _verify_alike(ordered, base)
    chosen = [name for name, array in base.items() if is_float(array, name)] if names is None else names
    return {name: _fold(name, ordered, shares, base, UpdateKind.DIFF) for name in chosen}


def moment_dtype(array: Array) -> np.dtype[Any]:
    """What differences and moments of a tensor are kept in: float64 for float64, float32 for the others."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def mean_metrics(updates: Iterable[Update]) -> dict[str, float]:
    """Each metric's mean over the sites that report it, weighted by their samples.

    Where those sites report no samples at all, each counts the same.
    """
    ordered = sorted(updates, key=lambda update: update.site)
    names = sorted({name for update in ordered for name in update.metrics})
    return {name: _mean_metric(name, [u for u in ordered if name in u.metrics]) for name in names}


def _mean_metric(name: str, updates: Sequence[Update]) -> float:
    samples = [update.samples for update in updates]
    weights = samples if any(samples) else [1] * len(updates)
    total = math.fsum(weight * update.metrics[name] for weight, update in zip(weights, updates, strict=True))
    return total / sum(weights)


def _shares(updates: Sequence[Update]) -> list[float]:
    """The updates' shares, scaled by a power of two (which is exact) so that no sum overflows."""
    shares = [update.share for update in updates]
    for update, share in zip(updates, shares, strict=True):
        if not (math.isfinite(share) and share >= 0):
            raise UpdateRefused(f"the weight of {update.site} is {share}; it must be finite and not negative")
    largest = max(shares, default=0.0)
    if largest == 0:
        who = ", ".join(update.site for update in updates) or "no site"
        raise JobFailed(
            f"there is nothing to average: the updates have a total weight of 0 (from {who})",
            hint="send `samples` (or `weight`) with each update",
        )
    exponent = math.frexp(largest)[1] + len(shares).bit_length()
    return [math.ldexp(share, -exponent) for share in shares]


def _verify_alike(updates: Sequence[Update], base: Tensors | None) -> None:
    first = updates[0]
    for update in updates:
        if update.kind is UpdateKind.OPAQUE:
            raise UpdateRefused(f"the update of {update.site} is opaque; a mean takes full or diff")
        if update.kind is UpdateKind.DIFF:
            _verify_shapes(update, base or {}, "the model")
        _verify_shapes(update, first.params, first.site)


def _verify_shapes(update: Update, other: Tensors, whose: str) -> None:
    for name in sorted(set(update.params) ^ set(other)):
        one, two = (update.site, whose) if name in other else (whose, update.site)
        raise UpdateRefused(f"{one} lacks tensor {name!r}, which {two} has")
    for name, array in update.params.items():
        if (array.shape, array.dtype) != (other[name].shape, other[name].dtype):
            raise UpdateRefused(
                f"tensor {name!r} of {update.site} is {array.dtype}{list(array.shape)},"
                f" that of {whose} is {other[name].dtype}{list(other[name].shape)}"
            )


def _fold(
    name: str,
    updates: Sequence[Update],
    shares: Sequence[float],
    base: Tensors | None,
    kind: UpdateKind = UpdateKind.FULL,
) -> Array:
    """The mean of one tensor: of the weights (`full`), or of their difference from `base` (`diff`)."""
    parts = [(update.params[name].reshape(-1), share) for update, share in zip(updates, shares, strict=True)]
    first = updates[0].params[name]
    others = math.fsum(
        share for update, share in zip(updates, shares, strict=True) if update.kind is not kind
    )
    if others:  # those are made alike by the base, all at once
        parts.append(((base or {})[name].reshape(-1), others if kind is UpdateKind.FULL else -others))
    total = math.fsum(shares)
    dtype = first.dtype if kind is UpdateKind.FULL else moment_dtype(first)
    result = np.empty_like(first, dtype=dtype, order="C", subok=False)
    flat = result.reshape(-1)
    wide, mean = np.empty(_PIECE), np.empty(_PIECE)
    for start in range(0, flat.size, _PIECE):
        stop = min(start + _PIECE, flat.size)
        term, piece = wide[: stop - start], mean[: stop - start]
        piece.fill(0.0)
        for array, share in parts:
            widen(array[start:stop], term)
            term *= share
            piece += term
        piece /= total
        narrow(piece, flat[start:stop])
        if not all_finite(flat[start:stop]):
            raise UpdateRefused(f"the mean of tensor {name!r} leaves the range of {result.dtype}")
    return result


def _whole(update: Update, name: str, base: Tensors | None) -> Array:
    """An integer tensor as `update` has it. Sums wrap, as did the difference that they undo."""
    array: Array = update.params[name]
    if update.kind is UpdateKind.DIFF:
        start = (base or {})[name]
        array = np.logical_xor(start, array) if array.dtype == np.bool_ else np.add(start, array)
    return np.array(array, order="C", subok=False)
