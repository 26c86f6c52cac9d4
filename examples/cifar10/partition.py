# SPDX-License-Identifier: Apache-2.0
"""Which picture lies at which site: an uneven split, as in Wang, Yurochkin, Sun, Papailiopoulos, Khazaeni:
"Federated Learning with Matched Averaging", ICLR 2020 (FedMA), section 3.1, which FLARE's example uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse

CLASSES = 10
FEWEST = 10  # pictures at a site; a split that leaves a site with fewer is drawn again
ATTEMPTS = 1000


def split_labels(
    labels: NDArray[np.uint8], *, sites: int, alpha: float, seed: int = 0, fewest: int = FEWEST
) -> list[NDArray[np.intp]]:
    """The rows of each site's pictures, in random order; each picture is at one site.

    Each class is shared out in proportions drawn from Dirichlet(alpha): the lower `alpha`, the fewer
    sites have most of it. A site that has its fair share of pictures gets none of the classes that follow.
    The random numbers are drawn as FLARE's splitter draws them, so that the same labels and seed give
    the same split as there.

    Raises:
        Misuse: so low an alpha, or so few pictures, leave a site with fewer than `fewest` in every attempt.
    """
    if not alpha > 0 or not 1 <= sites * fewest <= len(labels):
        raise Misuse(
            f"{len(labels)} pictures do not split by alpha {alpha} over {sites} sites, {fewest} or more each",
            hint="alpha is above 0; 0.5 is usual",
        )
    source = np.random.RandomState(seed)
    for _ in range(ATTEMPTS):
        rows = _draw(labels, sites, alpha, source)
        if rows and min(map(len, rows)) >= fewest:
            for mine in rows:
                source.shuffle(mine)
            return rows
    raise Misuse(
        f"with alpha {alpha}, no split of {ATTEMPTS} gave each of {sites} sites {fewest} pictures",
        hint="choose a larger --alpha",
    )


def _draw(
    labels: NDArray[np.uint8], sites: int, alpha: float, source: np.random.RandomState
) -> list[NDArray[np.intp]]:
    """One attempt; empty when a class found no site that could take it."""
    rows: list[NDArray[np.intp]] = [np.empty(0, dtype=np.intp)] * sites
    for label in range(CLASSES):
        found = np.flatnonzero(labels == label)
        source.shuffle(found)
        shares = source.dirichlet(np.repeat(alpha, sites))
        shares = shares * [len(mine) < len(labels) / sites for mine in rows]
        if not shares.sum() > 0:  # also where a tiny alpha has given nan
            return []
        cuts = (np.cumsum(shares / shares.sum()) * len(found)).astype(int)[:-1]
        rows = [np.concatenate(pair) for pair in zip(rows, np.split(found, cuts), strict=True)]
    return rows


def count_classes(labels: NDArray[np.uint8], rows: Sequence[NDArray[np.intp]]) -> list[list[int]]:
    """How many pictures of each class each site has."""
    return [np.bincount(labels[mine], minlength=CLASSES).tolist() for mine in rows]
