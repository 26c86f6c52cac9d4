# SPDX-License-Identifier: Apache-2.0
"""A job's metrics as a picture: one panel per metric, the global curve over those of the sites."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from flprov.errors import NotFound, ProtocolError

_PANEL = (5.0, 3.2)  # inches
_MOST_PANELS = 60  # the picture has to be held in memory


def draw_metrics(metrics: Mapping[str, Any]) -> bytes:
    """A PNG of what `metrics.json` holds.

    Raises:
        NotFound: matplotlib is not installed, or there is no metric to draw.
        ProtocolError: it holds something else, or numbers that no axis has room for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of glyphs that no font has, of numbers near the largest
            return _draw(metrics)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolError(f"the metrics cannot be drawn: {error}") from error


def _draw(metrics: Mapping[str, Any]) -> bytes:
    rounds: Sequence[Mapping[str, Any]] = metrics["rounds"]
    every = sorted({name for record in rounds for name in record["metrics"]})
    names = every[:_MOST_PANELS]
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
    shown = f"  ({len(names)} of {len(every)} metrics)" if len(every) > len(names) else ""
    figure.suptitle(f"{metrics['name']}  {metrics['job_id']}{shown}", fontsize=11, parse_math=False)
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
    axes.set_title(name, fontsize=10, parse_math=False)  # a name may have dollar signs
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=7)
