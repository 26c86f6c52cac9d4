# SPDX-License-Identifier: Apache-2.0
"""Curves as text, for terminals: each site has a letter, `*` is the job as a whole."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from flprov.cli.output import clean

if TYPE_CHECKING:
    from flprov.wire.documents import Curve, JobCurves

_WIDTH, _HEIGHT = 64, 12
_LETTERS = string.ascii_lowercase + string.ascii_uppercase

Labelled = tuple[str, "Curve"]


def text_curves(jobs: Sequence[JobCurves]) -> str:
    """Every metric of these jobs, one chart below the other."""
    blocks = ["  ".join(clean(f"{job.name} {job.job_id} ({job.state})") for job in jobs)]
    keys = sorted({(curve.origin, curve.name) for job in jobs for curve in job.curves}, reverse=True)
    for origin, name in keys:
        labelled = [
            (_label(job, curve, alone=len(jobs) == 1), curve)
            for job in jobs
            for curve in job.curves
            if (curve.origin, curve.name) == (origin, name)
        ]
        blocks.append(_chart(f"{name} ({origin})", sorted(labelled, key=lambda one: one[1].site == "")))
    if not keys:
        blocks.append("no numbers yet")
    blocks += [
        f"{clean(site) or 'the workflow'}: later points were dropped" for job in jobs for site in job.full
    ]
    return "\n\n".join(blocks)


def _label(job: JobCurves, curve: Curve, *, alone: bool) -> str:
    whose = clean(curve.site) or "global"
    return whose if alone else f"{clean(job.job_id)} {whose}"


def _chart(title: str, curves: Sequence[Labelled]) -> str:
    values = [value for _, curve in curves for value in curve.values]
    steps = [step for _, curve in curves for step in curve.steps]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    rows = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    legend = []
    letters = iter(_LETTERS * (1 + len(curves) // len(_LETTERS)))
    for label, curve in curves:
        mark = "*" if label == "global" else next(letters)
        legend.append(f"{mark} {label} {curve.values[-1]:.4g}")
        for step, value in zip(curve.steps, curve.values, strict=True):
            column = _place(step, first, last, _WIDTH)
            rows[_HEIGHT - 1 - _place(value, low, high, _HEIGHT)][column] = mark
    edges = {0: f"{high:.4g}", _HEIGHT - 1: f"{low:.4g}"}
    width = max(len(text) for text in edges.values())
    body = [f"{edges.get(number, ''):>{width}} |{''.join(row).rstrip()}" for number, row in enumerate(rows)]
    axis = f"{'':>{width}} +{'-' * _WIDTH}"
    ends = f"{first}{curves[0][1].axis:^{_WIDTH - len(str(first)) - len(str(last))}}{last}"
    return "\n".join([clean(title), *body, axis, f"{'':>{width}}  {ends}", *_wrapped(legend)])


def _place(value: float, low: float, high: float, count: int) -> int:
    length = high / 2 - low / 2  # the whole may be beyond all floats; of the smallest numbers the half is 0
    if length <= 0:
        return count // 2
    return min(count - 1, int((value / 2 - low / 2) / length * (count - 1) + 0.5))


def _wrapped(items: Iterable[str]) -> list[str]:
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) > _WIDTH:
            lines.append("")
        lines[-1] += f"  {item}"
    return lines
