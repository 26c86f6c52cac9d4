# SPDX-License-Identifier: Apache-2.0
"""Filters that send only part of the numbers: `percentile` and `svt_privacy`.

Both come from Shokri and Shmatikov, "Privacy-Preserving Deep Learning" (CCS 2015). The first promises
nothing; the second is differentially private, with the budget as it was put right since.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed
from flprov.messages import Site, Task, Tensors, Update
from flprov.sdk.filters.difference import (
    Doubles,
    base_of,
    float_count,
    float_names,
    leave_at_model,
    map_difference,
    mark_sparse,
    pieces,
)
from flprov.sdk.filters.randomness import noise_for

_DIGITS = (48, 32, 16, 0)  # a float64 in four digits of 16 bits
_MOST = 10**9  # numbers among which a sample can be drawn


def percentile(update: Update, task: Task, site: Site, *, keep: float, gamma: float | None = None) -> Update:
    """Send the largest part of the difference, by absolute value; the rest is zero.

    `keep` is the part of all floating-point numbers that is sent, over all tensors together; numbers as
    large as the least of them are sent too. With `gamma` what is sent is kept within [-gamma, gamma].
    """
    base = base_of(update, task, "percentile")
    if not float_count(update):
        return update
    cutoff = _cutoff(update, base, max(1, math.ceil(keep * float_count(update))))
    limit = math.inf if gamma is None else gamma

    def cut(piece: Doubles) -> Doubles:
        return np.where(np.abs(piece) >= cutoff, np.clip(piece, -limit, limit), 0.0)

    return mark_sparse(map_difference(update, base, cut, site), float_names(update))


def svt_privacy(
    update: Update,
    task: Task,
    site: Site,
    *,
    fraction: float,
    epsilon: float,
    gamma: float,
    tau: float,
    seed: int | None = None,
) -> Update:
    """Send at most a part `fraction` of the difference, chosen and blurred by the sparse vector technique.

    Algorithm 7 of Lyu, Su, Li, "Understanding the Sparse Vector Technique for Differential Privacy" (VLDB
    2017; Dwork and Roth 2014, section 3.6), over all floating-point numbers x of the difference. The
    queries are min(|x|, gamma), of sensitivity gamma whatever the data are; the threshold is `tau`. With
    c = fraction * count and epsilon = e1 + e2 + e3:

        rho = Lap(gamma / e1), once; of those x with min(|x|, gamma) + Lap(2 c gamma / e2) >= tau + rho,
        the first c in a random order are sent, as clip(x, gamma) + Lap(2 c gamma / e3), clipped again.

    e3 is half of epsilon, and e1 : e2 = 1 : (2c)^(2/3), the split that their section 4.2 finds best. The
    noise of the queries is drawn once: a second try until c are found would cost a second budget. Integer
    tensors are left at the model's values.
    """
    base = base_of(update, task, "svt_privacy")
    count = float_count(update)
    if count > _MOST:
        raise JobFailed(f"filter svt_privacy takes up to {_MOST} numbers; this update has {count}")
    most = max(1, math.floor(fraction * count))
    first, second, third = _split(epsilon, most)
    noise = noise_for(task, site, seed)
    threshold = tau + float(noise.laplace(1, gamma / first)[0])
    above: list[NDArray[np.uint8]] = []
    for piece in pieces(update, base, "svt_privacy"):
        queries = np.minimum(np.abs(piece), gamma) + noise.laplace(piece.size, 2 * most * gamma / second)
        above.append(np.packbits(queries >= threshold))
    chosen = _sample(above, most, np.random.default_rng(None if seed is None else [seed, task.round]))

    def cut(piece: Doubles) -> Doubles:
        blurred = np.clip(piece, -gamma, gamma) + noise.laplace(piece.size, 2 * most * gamma / third)
        return np.where(next(chosen)[: piece.size], np.clip(blurred, -gamma, gamma), 0.0)

    sent = map_difference(update, base, cut, site)
    sent = leave_at_model(sent, base, update.params.keys() - float_names(update))
    return mark_sparse(sent, float_names(update))


def _split(epsilon: float, most: int) -> tuple[float, float, float]:
    """Of the budget: what the threshold, the queries and the values get."""
    ratio = (2 * most) ** (2 / 3)
    return epsilon / 2 / (1 + ratio), epsilon / 2 * ratio / (1 + ratio), epsilon / 2


def _sample(
    above: list[NDArray[np.uint8]], most: int, source: np.random.Generator
) -> Iterator[NDArray[np.bool_]]:
    """Of the marks in `above`, `most` that are drawn at random, or all: piece after piece.

    That is where a walk in a random order, which stops after `most`, ends too.
    """
    left = sum(int(np.unpackbits(bits).sum()) for bits in above)
    wanted = min(most, left)
    for bits in above:
        marks = np.unpackbits(bits).astype(bool)
        found = np.flatnonzero(marks)
        here = int(source.hypergeometric(found.size, left - found.size, wanted)) if wanted else 0
        left, wanted = left - found.size, wanted - here
        marks[source.permutation(found)[here:]] = False
        yield marks


def _cutoff(update: Update, base: Tensors | None, rank: int) -> float:
    """The `rank`-th largest absolute value: exact, and in constant memory.

    The bits of positive floats are in the order of their values, so it is found digit by digit, each time
    counting over all of them.
    """
    prefix = 0
    for shift in _DIGITS:
        counts = np.zeros(1 << 16, np.int64)
        for piece in pieces(update, base, "percentile"):
            bits = np.abs(piece).view(np.uint64) >> np.uint64(shift)
            bits = bits[(bits >> np.uint64(16)) == prefix]
            counts += np.bincount((bits & np.uint64(0xFFFF)).astype(np.int64), minlength=1 << 16)
        larger = np.cumsum(counts[::-1])
        place = int(np.searchsorted(larger, rank))  # from the largest digit down
        rank -= int(larger[place - 1]) if place else 0
        prefix = prefix << 16 | ((1 << 16) - 1 - place)
    return float(np.uint64(prefix).view(np.float64))
