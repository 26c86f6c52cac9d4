# SPDX-License-Identifier: Apache-2.0
"""What `job plot` draws: the numbers of one or several jobs, as curves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One metric of one site, in the order in which it was told."""

    name: str
    origin: str  # round: the metrics of rounds | live: told while rounds went on
    site: str  # empty: of the job as a whole
    axis: (
        str  # what `steps` counts: round | step | point (the steps told go back: these are numbers in a row)
    )
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class JobCurves:
    """One job's curves, sorted by metric and site."""

    job_id: str
    name: str
    state: str
    curves: tuple[Curve, ...]
    full: tuple[str, ...] = ()  # sites that told more points than are kept


@dataclass(frozen=True, kw_only=True)
class PlotDocument:
    """`job plot --json`."""

    jobs: tuple[JobCurves, ...]
