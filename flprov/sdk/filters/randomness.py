# SPDX-License-Identifier: Apache-2.0
"""Random numbers for noise that hides something: from the operating system's cryptographic generator.

With a seed they repeat, for tests; whoever knows the seed can take the noise off again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flprov.messages import Site, Task

Doubles = NDArray[np.float64]


class Noise:
    """Independent random numbers."""

    def __init__(self, draw: Callable[[int], bytes]) -> None:
        self._draw = draw

    def uniform(self, count: int) -> Doubles:
        """Uniform in (0, 1): the middles of 2^52 equal parts, so that neither end is ever met."""
        bits = np.frombuffer(self._draw(8 * count), "<u8") >> np.uint64(12)
        middles: Doubles = (bits.astype(np.float64) + 0.5) * 2.0**-52
        return middles

    def normal(self, count: int) -> Doubles:
        """N(0, 1), by Box and Muller (1958)."""
        half = (count + 1) // 2
        radius = np.sqrt(-2.0 * np.log(self.uniform(half)))
        angle = 2.0 * np.pi * self.uniform(half)
        return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]

    def laplace(self, count: int, scale: float) -> Doubles:
        """Density exp(-|x| / scale) / (2 scale), by its inverse distribution function."""
        centred = self.uniform(count) - 0.5
        return np.copysign(-scale * np.log1p(-2.0 * np.abs(centred)), centred)


def noise_for(task: Task, site: Site, seed: int | None) -> Noise:
    """Noise for one answer: never the same twice; with a `seed`, the same for a site, round and task."""
    if seed is None:
        return Noise(os.urandom)
    place = hashlib.blake2b(f"{site.name}/{task.round}/{task.name}".encode(), digest_size=16).digest()
    return Noise(np.random.default_rng([seed, *place]).bytes)
