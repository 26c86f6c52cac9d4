# SPDX-License-Identifier: Apache-2.0
"""Each site's part of scikit-learn's breast cancer data: 569 real biopsies, 30 measurements each.

Real sites have their own data. Here they share out one set without talking to each other: a site's
number is the number, or else the letter, that its name ends with (`site-2` and `hospital-b`: 2), and
site k holds the biopsies from (k-1)/k to k/(k+1) of the shuffled set: 284, 95, 47, 29, ... of them.
No biopsy is at two sites, and nobody needs to know how many sites there are.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer

SHUFFLE = 7  # seed; the same at every site
HELD_OUT = 4  # every fourth biopsy of a site is for measuring, not for training


@dataclass(frozen=True, kw_only=True)
class Part:
    """Biopsies as float32 rows, with their labels: 0 malignant, 1 benign."""

    measurements: torch.Tensor
    labels: torch.Tensor


def site_number(site: str) -> int:
    """1 for `hospital-a` and `site-1`, 2 for `hospital-b` and `site-2`, ...

    Raises:
        ValueError: the name ends with neither a letter nor a number from 1 on.
    """
    digits = re.search(r"[0-9]+$", site)
    number = int(digits[0]) if digits else ord(site[-1].lower()) - ord("a") + 1
    if number < 1:
        raise ValueError(f"the name {site!r} must end with a letter, or with a number from 1 on")
    return number


def load_parts(site: str) -> tuple[Part, Part]:
    """What this site trains on, and what it holds out to measure the model with."""
    everything = load_breast_cancer()
    order = np.random.default_rng(SHUFFLE).permutation(len(everything.target))
    k = site_number(site)
    mine = order[len(order) * (k - 1) // k : len(order) * k // (k + 1)]
    if len(mine) < HELD_OUT:
        raise ValueError(f"the data are used up: {len(mine)} biopsies are left for {site!r}, the {k}th site")
    held_out = np.arange(len(mine)) % HELD_OUT == 0
    rows = everything.data[mine]
    training = rows[~held_out]
    scaled = (rows - training.mean(axis=0)) / training.std(axis=0)
    measurements = torch.tensor(scaled, dtype=torch.float32)
    labels = torch.tensor(everything.target[mine])
    test = torch.tensor(held_out)
    return (
        Part(measurements=measurements[~test], labels=labels[~test]),
        Part(measurements=measurements[test], labels=labels[test]),
    )
