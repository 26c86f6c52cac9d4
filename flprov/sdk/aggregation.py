# SPDX-License-Identifier: Apache-2.0
"""Aggregation: many updates to one model, tensor by tensor.

The order of arrival never shows in the result: updates are folded in the order of their sites'
names, in float64, with single roundings that IEEE 754 defines. Mapped updates are read in pieces, once,
by all processors, and given back; the result goes where `flprov.sdk.results` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed, UpdateRefused
from flprov.messages import Tensors, Update, UpdateKind
from flprov.sdk.floats import all_finite, is_float, narrow, widen
from flprov.sdk.results import Results, open_results
from flprov.wire import PIECE, each_span, give_back, pieces

Array = NDArray[np.generic]
Rule = Callable[[Results, slice], None]  # puts one span of a tensor among the results

# Numbers of a tensor whose pages are given back once they are read. For those of many small ones that took a
# third of the fold of a thousand updates, and they go with the updates anyway.
_LARGE = 1 << 18


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
    heaviest = ordered[shares.index(max(shares))]
    chosen = {n: array for n, array in ordered[0].params.items() if names is None or n in names}
    rules: dict[str, Rule] = {
        name: _fold(name, ordered, shares, base) if is_float(array, name) else _take(heaviest, name, base)
        for name, array in chosen.items()
    }
    return _calculate(rules, chosen, {name: array.dtype for name, array in chosen.items()}, len(ordered))


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
    rules = {name: _fold(name, ordered, shares, base, UpdateKind.DIFF) for name in chosen}
    return _calculate(rules, base, {name: moment_dtype(base[name]) for name in chosen}, len(ordered))


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


def _calculate(
    rules: Mapping[str, Rule], like: Tensors, dtypes: Mapping[str, np.dtype[Any]], deep: int
) -> Tensors:
    """The tensors that `rules` make of so many updates, in the shapes of those in `like`."""
    with open_results({name: (dtypes[name], like[name].shape) for name in rules}) as results:
        sizes = {name: like[name].size for name in rules}
        each_span(sizes, lambda name, where: rules[name](results, where), deep=deep)
    return results.tensors


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """The mean of one tensor, span by span: each number is a sum in the order of the parts."""

    name: str
    parts: Sequence[tuple[Array, float]]
    total: float
    dtype: np.dtype[Any]

    def __call__(self, results: Results, where: slice) -> None:
        term, mean, rounded = np.empty(PIECE), np.empty(PIECE), np.empty(PIECE, self.dtype)
        for at in pieces(where):
            size = at.stop - at.start
            self._add_up(at, term[:size], mean[:size])
            narrow(mean[:size], rounded[:size])
            if not all_finite(rounded[:size]):
                raise UpdateRefused(f"the mean of tensor {self.name!r} leaves the range of {self.dtype}")
            results.put(self.name, at.start, rounded[:size])
        if self.parts[0][0].size >= _LARGE:
            give_back(*(array[where] for array, _ in self.parts))

    def _add_up(self, at: slice, term: NDArray[np.float64], mean: NDArray[np.float64]) -> None:
        (first, share), *others = self.parts
        np.multiply(widen(first[at], mean), share, out=mean)
        mean += 0.0  # the sum begins at +0: it forgets the sign of -0
        for array, share in others:
            np.multiply(widen(array[at], term), share, out=term)
            mean += term
        if math.frexp(self.total)[0] == 0.5:  # a power of two: the same bits in a third of the time
            mean *= 1 / self.total
        else:
            mean /= self.total


def _fold(
    name: str,
    updates: Sequence[Update],
    shares: Sequence[float],
    base: Tensors | None,
    kind: UpdateKind = UpdateKind.FULL,
) -> Rule:
    """The mean of one tensor: of the weights (`full`), or of their difference from `base` (`diff`)."""
    first = updates[0].params[name]
    parts = [(update.params[name].reshape(-1), share) for update, share in zip(updates, shares, strict=True)]
    others = math.fsum(
        share for update, share in zip(updates, shares, strict=True) if update.kind is not kind
    )
    if others:  # those are made alike by the base, all at once
        parts.append(((base or {})[name].reshape(-1), others if kind is UpdateKind.FULL else -others))
    dtype = first.dtype if kind is UpdateKind.FULL else moment_dtype(first)
    return _Fold(name=name, parts=parts, total=math.fsum(shares), dtype=dtype)


def _take(update: Update, name: str, base: Tensors | None) -> Rule:
    """An integer tensor as `update` has it. Sums wrap, as did the difference that they undo."""
    array: NDArray[Any] = update.params[name].reshape(-1)
    start: NDArray[Any] = (base or {})[name].reshape(-1) if update.kind is UpdateKind.DIFF else array

    def take(results: Results, where: slice) -> None:
        for at in pieces(where):
            if update.kind is not UpdateKind.DIFF:
                found = array[at]
            elif array.dtype == np.bool_:
                found = np.logical_xor(start[at], array[at])
            else:
                found = np.add(start[at], array[at])
            results.put(name, at.start, found)

    return take
