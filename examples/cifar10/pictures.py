# SPDX-License-Identifier: Apache-2.0
"""Pictures of a folder, in batches for the network: cut, mirrored, and scaled as they are needed.

They stay bytes, and on disk: the files are mapped, so what several processes read is in memory once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIZE = 32  # pixels
MARGIN = 4  # a picture is mirrored at its edges by so many pixels, then a part of SIZE is cut out of it
MEAN = (125.3, 123.0, 113.9)  # of red, green and blue over CIFAR-10's training pictures, and their spread
SPREAD = (63.0, 62.1, 66.7)
MEASURED = 500  # pictures in a batch when nothing is learnt


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Bytes of shape (n, 32, 32, 3), with a label from 0 to 9 for each."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.intp] | slice) -> Pictures:
        """Those of these rows."""
        return Pictures(pixels=self.pixels[rows], labels=self.labels[rows])

    def sample(self, count: int | None, *, seed: int) -> Pictures:
        """So many of them at random, in the order of the files (in which classes may come one by one).

        None, or as many as there are, means all.
        """
        if count is None or count >= len(self):
            return self
        rows = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.take(np.sort(rows))

    def save(self, folder: Path, part: str) -> None:
        """Write what `load_pictures` reads."""
        np.save(folder / f"{part}_pixels.npy", self.pixels)
        np.save(folder / f"{part}_labels.npy", self.labels)


def load_pictures(folder: Path, part: str) -> Pictures:
    """The `train` or the `test` pictures of a folder; the pixels are mapped, not read."""
    return Pictures(
        pixels=np.load(folder / f"{part}_pixels.npy", mmap_mode="r", allow_pickle=False),
        labels=np.load(folder / f"{part}_labels.npy", allow_pickle=False),
    )


class Batches:
    """Pictures as the network takes them.

    Random choices come from torch's own generator: seed it, and the batches are the same.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures
        self._labels = torch.from_numpy(pictures.labels.astype(np.int64))
        self._windows: Tensor | None = None

    def __len__(self) -> int:
        return len(self._pictures)

    def shuffled(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them once, in random order, each shifted by up to MARGIN pixels and perhaps mirrored."""
        windows = self._cut()
        for rows in torch.randperm(len(self)).split(size):
            down, right = torch.randint(2 * MARGIN + 1, (2, len(rows)))
            mirrored = torch.rand(len(rows), 1, 1, 1) < 0.5
            pixels = windows[rows, down, right]
            yield scale(torch.where(mirrored, pixels.flip(-1), pixels)), self._labels[rows]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All of them once, as they are."""
        for start in range(0, len(self), MEASURED):
            rows = slice(start, start + MEASURED)
            pixels = torch.from_numpy(np.array(self._pictures.pixels[rows]))
            yield scale(pixels.permute(0, 3, 1, 2)), self._labels[rows]

    def _cut(self) -> Tensor:
        """Every part of SIZE of every picture with its margin, without a copy: (n, 9, 9, 3, 32, 32).

        Indexing this is three times as fast as gathering pixels one by one.
        """
        if self._windows is None:
            margin = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
            padded = torch.from_numpy(np.pad(self._pictures.pixels, margin, mode="reflect"))
            self._windows = padded.unfold(1, SIZE, 1).unfold(2, SIZE, 1)
        return self._windows


def scale(pixels: Tensor) -> Tensor:
    """Bytes of shape (n, 3, 32, 32) as numbers around 0.

    The colours of a pixel lie side by side (`channels_last`), as in the files: a sixth faster on a CPU.
    """
    mean, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, SPREAD))
    return ((pixels.float() - mean) / spread).contiguous(memory_format=torch.channels_last)
