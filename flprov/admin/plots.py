# SPDX-License-Identifier: Apache-2.0
"""The metrics of jobs as a picture: one panel per metric, the global curve over those of the sites."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flprov.errors import NotFound, ProtocolError

if TYPE_CHECKING:
    from flprov.wire.documents import JobCurves

_PANEL = (5.0, 3.2)  # inches
_TITLE = 11.0  # points
_LETTER = 0.62  # the width of a letter, in parts of its height; more than most have
_MOST_PANELS = 60  # the picture has to be held in memory
_MOST_LABELS = 20  # in a legend that still leaves room for the curves
_COLOURS = 10  # that matplotlib gives to curves in turn
_DENSE = 60  # points in a curve that reads better without a mark at each


def prepare_drawing() -> None:
    """Import what drawing takes, before there is anything to draw; nothing happens without matplotlib."""
    with contextlib.suppress(ImportError):
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401


def draw_metrics(metrics: Mapping[str, Any]) -> bytes:
    """A PNG of what `metrics.json` holds.

    Raises:
        NotFound: matplotlib is not installed, or there is no metric to draw.
        ProtocolError: it holds something else, or numbers that no axis has room for.
    """
    with _drawing():
        return _draw(metrics)


@contextlib.contextmanager
def _drawing() -> Iterator[None]:
    """What matplotlib has against numbers and names becomes an error of ours."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of glyphs that no font has, of numbers near the largest
            yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProtocolError(f"the metrics cannot be drawn: {error}") from error


def draw_curves(jobs: Sequence[JobCurves], kind: str = "png") -> bytes:
    """A picture of the jobs' curves, `kind` png or svg: what was measured, without smoothing or bands.

    Of several jobs, a metric that they have globally is shown globally only.

    Raises:
        NotFound: matplotlib is not installed, or there is nothing to draw.
        ProtocolError: there are numbers that no axis has room for.
    """
    from flprov.wire import LIVE, ROUND  # late: `draw_metrics` does without

    told = sorted({(curve.origin == LIVE, curve.name) for job in jobs for curve in job.curves})
    panels = [
        _panel(jobs, name, LIVE, f"{name} (live)") if live else _panel(jobs, name, ROUND, name)
        for live, name in told
    ]
    if not panels:
        raise NotFound("no numbers were told, so there is nothing to draw")
    names = {f"{job.name}  {job.job_id}  ({job.state})": None for job in jobs}
    title = "\n".join(names) if len(names) < 4 else f"{len(names)} jobs"
    full = sorted(
        {f"{site or 'the workflow'}: later points were dropped" for job in jobs for site in job.full}
    )
    with _drawing():
        return _render("\n".join([title, *full]), panels, kind)


def _panel(jobs: Sequence[JobCurves], name: str, origin: str, title: str) -> _Panel:
    found = [
        (job, curve) for job in jobs for curve in job.curves if (curve.name, curve.origin) == (name, origin)
    ]
    if len(jobs) > 1 and any(not curve.site for _, curve in found):
        found = [(job, curve) for job, curve in found if not curve.site]
    axis = " / ".join(sorted({curve.axis for _, curve in found}))
    lines = []
    for job, curve in sorted(found, key=lambda pair: (pair[1].site == "", pair[1].site)):
        whose = curve.site or "global"
        label = whose if len(jobs) == 1 else f"{job.name} {job.job_id}" + (f" {whose}" if curve.site else "")
        bold = not curve.site and len(jobs) == 1
        lines.append(_Line(label, curve.steps, curve.values, bold))
    return _Panel(title, axis, lines)


class _Line(NamedTuple):
    """One curve in a panel."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    bold: bool  # over the others


class _Panel(NamedTuple):
    """One metric."""

    title: str
    axis: str
    lines: Sequence[_Line]


def _draw(metrics: Mapping[str, Any]) -> bytes:
    rounds: Sequence[Mapping[str, Any]] = metrics["rounds"]
    every = sorted({name for record in rounds for name in record["metrics"]})
    if not every:
        raise NotFound("the job reported no metrics, so there is nothing to draw")
    panels = [_Panel(name, "round", _metric_lines(rounds, name)) for name in every]
    return _render(f"{metrics['name']}  {metrics['job_id']}", panels, "png")


def _metric_lines(rounds: Sequence[Mapping[str, Any]], name: str) -> list[_Line]:
    """The sites' curves and, last, the global one."""
    sites = sorted({site for record in rounds for site in record["sites"]})
    told = [
        (site, [(r["round"] + 1, r["sites"].get(site, {}).get("metrics", {}).get(name)) for r in rounds])
        for site in sites
    ]
    told.append(("global", [(record["round"] + 1, record["metrics"].get(name)) for record in rounds]))
    lines = []
    for label, points in told:
        known = [(step, value) for step, value in points if value is not None]
        if known:
            steps, values = zip(*known, strict=True)
            lines.append(_Line(label, steps, values, label == "global"))
    return lines


def _render(title: str, panels: Sequence[_Panel], kind: str) -> bytes:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise NotFound("matplotlib is not installed here", hint="pip install 'flprov[plot]'") from None
    shown = panels[:_MOST_PANELS]
    columns = min(len(shown), 3)
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")
    cut = f"  ({len(shown)} of {len(panels)} metrics)" if len(panels) > len(shown) else ""
    figure.suptitle(f"{title}{cut}", fontsize=_title_size(f"{title}{cut}", columns), parse_math=False)
    for position, panel in enumerate(shown, start=1):
        _draw_panel(figure.add_subplot(rows, columns, position), panel)
    target = io.BytesIO()
    figure.set_canvas(FigureCanvasAgg(figure))
    with mpl.rc_context({"svg.hashsalt": "flprov"}):  # the same numbers give the same picture
        figure.savefig(target, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else None)
    return target.getvalue()


def _title_size(title: str, columns: int) -> float:
    """In points: as large as lets the longest line fit above so many panels."""
    longest = max(map(len, title.splitlines()), default=1)
    return min(_TITLE, _PANEL[0] * columns * 72 / (_LETTER * max(1, longest)))


def _draw_panel(axes: Any, panel: _Panel) -> None:  # noqa: ANN401 - matplotlib has no types
    dense = any(len(line.steps) > _DENSE for line in panel.lines)
    named = len(panel.lines) <= _MOST_LABELS
    for line in panel.lines if named else _merged(panel.lines):
        if line.bold:
            style: dict[str, Any] = {"color": "black", "linewidth": 2, "marker": "o", "markersize": 4}
        else:
            style = {"linewidth": 1, "alpha": 0.8, "marker": "" if dense else "."}
        axes.plot(line.steps, line.values, label=line.label, **style)
    axes.set_xlabel(panel.axis)
    axes.set_title(panel.title, fontsize=10, parse_math=False)  # a name may have dollar signs
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if named:
        axes.legend(fontsize=7)


def _merged(lines: Sequence[_Line]) -> Iterator[_Line]:
    """Lines that have no labels: each colour as one, with gaps: a thousand take a second to draw."""
    thin = [line for line in lines if not line.bold]
    for first in range(min(_COLOURS, len(thin))):
        steps: list[float] = []
        values: list[float] = []
        for line in thin[first::_COLOURS]:
            steps += [*line.steps, math.nan]
            values += [*line.values, math.nan]
        yield _Line("", steps, values, bold=False)
    yield from (line for line in lines if line.bold)
