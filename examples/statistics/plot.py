#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draw the histograms of a job's statistics.json.

python examples/statistics/plot.py RESULT_FOLDER/statistics.json [histograms.png]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot


def draw(document: dict, target: Path) -> Path:
    """One picture per feature: the bins of all sites together, and what each of them adds."""
    rows = [
        (f"{dataset}: {feature}", found)
        for dataset, features in document["datasets"].items()
        for feature, found in features.items()
        if found.get("histogram")
    ]
    figure, places = pyplot.subplots(max(len(rows), 1), figsize=(7, 2.4 * max(len(rows), 1)), squeeze=False)
    for (name, found), place in zip(rows, places[:, 0], strict=False):
        edges = found["histogram"]["edges"]
        place.stairs(found["histogram"]["counts"], edges, fill=True, alpha=0.3, label="all")
        for site, own in found["sites"].items():
            if own.get("histogram"):
                place.stairs(own["histogram"]["counts"], edges, label=site)
        place.set_title(f"{name}, {found['count']} values, mean {found['mean']:.4g}", fontsize=9)
        place.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target)
    pyplot.close(figure)
    return target


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    source = Path(sys.argv[1])
    print(draw(json.loads(source.read_text()), Path(sys.argv[2] if len(sys.argv) > 2 else "histograms.png")))
