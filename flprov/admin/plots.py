# SPDX-License-Identifier: Apache-2.0
"""A job's metrics as a picture: one panel per metric, the global curve over those of the sites."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flprov.errors import NotFound

_PANEL = (5.0, 3.2)  # inches


def draw_metrics(metrics: Mapping[str, Any]) -> bytes:
    """A PNG of what `metrics.json` holds.

    Raises:
        NotFound: matplotlib is not installed, or there is no metric to draw.
    """
    rounds: Sequence[Mapping[str, Any]] = metrics["rounds"]
    names = sorted({name for record in rounds for name in record["metrics"]})
    if not names:
        raise NotFound("the job reported no metrics, so there is nothing to draw")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NotFound("matplotlib is not installed here", hint="pip install 'flprov[plot]'") from None
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    figure.suptitle(f"{metrics['name']}  {metrics['job_id']}", fontsize=11)
    for position, name in enumerate(names, start=1):
        _draw_panel(figure.add_subplot(rows, columns, position), rounds, name)
    target = io.BytesIO()
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()


def _draw_panel(axes: Any, rounds: Sequence[Mapping[str, Any]], name: str) -> None:  # noqa: ANN401 - matplotlib has no types
    sites = sorted({site for record in rounds for site in record["sites"]})
    for site in sites:
        points = [
            (record["round"] + 1, record["sites"][site]["metrics"][name])
            for record in rounds
            if name in record["sites"].get(site, {}).get("metrics", {})
        ]
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=1, alpha=0.6, marker=".", label=site)
    points = [
        (record["round"] + 1, record["metrics"][name]) for record in rounds if name in record["metrics"]
    ]
    axes.plot(
        *zip(*points, strict=True), color="black", linewidth=2, marker="o", markersize=4, label="global"
    )
    axes.set_xlabel("round")
    axes.set_title(name, fontsize=10)
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=7)
