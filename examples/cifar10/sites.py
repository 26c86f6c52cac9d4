# SPDX-License-Identifier: Apache-2.0
"""A folder for each site, with its own pictures and nothing else: what a hospital would have on its disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pictures import Pictures, load_pictures


def write_sites(
    folder: Path, names: Sequence[str], training: Pictures, test: Pictures, rows: Sequence[NDArray[np.intp]]
) -> None:
    """Give each site the training pictures of its `rows`, and every n-th test picture.

    FLARE's sites all measure on all test pictures. With a part each, the mean weighted by samples, which
    is what flprov shows of a metric, is the accuracy on all of them, at an eighth of the cost.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for number, (name, mine) in enumerate(zip(names, rows, strict=True)):
        place = folder / name
        place.mkdir(parents=True)
        training.take(np.sort(mine)).save(place, "train")  # in the order of the file: read once, forwards
        test.take(slice(number, None, len(names))).save(place, "test")


def gather_sites(folder: Path, names: Iterable[str], part: str) -> Pictures:
    """The pictures of all sites in one place, which a federation has not; the baseline does."""
    found = [load_pictures(folder / name, part) for name in names]
    return Pictures(
        pixels=np.concatenate([pictures.pixels for pictures in found]),
        labels=np.concatenate([pictures.labels for pictures in found]),
    )
