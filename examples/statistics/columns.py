# SPDX-License-Identifier: Apache-2.0
"""A site's columns: five measurements of scikit-learn's breast cancer data, of which each has a part.

Real sites read their own table here. Site k holds the biopsies from (k-1)/k to k/(k+1) of the set, as in
the example `breast_cancer`: 284, 95, 47, ... of them.
"""

import re

from sklearn.datasets import load_breast_cancer

from flprov.sdk import Site, Task, Update, summarise

SHOWN = ("mean radius", "mean texture", "mean smoothness", "mean concavity", "mean symmetry")
RANGES = {"mean texture": (5.0, 45.0)}  # known beforehand: no site has to tell its extremes


def describe(task: Task, site: Site) -> Update:
    """What this site may say of its columns."""
    everything = load_breast_cancer()
    digits = re.search(r"[0-9]+$", site.name)
    k = int(digits[0]) if digits else ord(site.name[-1].lower()) - ord("a") + 1
    total = len(everything.target)
    rows = slice(total * (k - 1) // k, total * k // (k + 1))
    table = dict(zip(everything.feature_names, everything.data[rows].T, strict=True))
    return summarise(task, site, {name: table[name] for name in SHOWN}, ranges=RANGES)
