# SPDX-License-Identifier: Apache-2.0
"""A site's answer to "federated_statistics": its columns as counts, sums, histograms and groups.

    def statistics(task, site):
        return summarise(task, site, {"train": {"age": ages, "weight": weights}})

Nothing leaves that speaks of fewer than `min_count` values. What the job asks for and what the site's
policy allows are both read here; the stricter of the two holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flprov.errors import Misuse
from flprov.messages import Scalar, Site, StatisticsRules, Task, Update, UpdateKind

EXTREMES = ("exact", "noise", "never")  # the later, the stricter
MOST_GROUPS = 256  # of one feature at one site, for quantiles
ALL = "data"  # the name of the data set where the app gives only one
HIDDEN = -1  # instead of a bin's count
_NOISE = (0.1, 0.3)  # how far the noise moves an extreme, in shares of the range between the two

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = Mapping[str, ArrayLike]


def summarise(
    task: Task,
    site: Site,
    data: Columns | Mapping[str, Columns],
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Update:
    """What this site answers to a task of "federated_statistics".

    Args:
        task: as it came.
        site: as it came; its policy's rules are in it.
        data: feature -> its values, one-dimensional; or data set -> such a mapping. What is no finite
            number counts as a failure.
        ranges: feature -> the range of its histogram, the same at every site. The others' range is
            found from the sites' extremes, as far as these may be told.

    Raises:
        Misuse: the values are no columns of numbers, there are none, or the task is not of this workflow.
    """
    columns = _read_columns(data)
    rules = _read_rules(task.scalars, site.statistics)
    found: dict[str, NDArray[Any]] = {}
    total = 0
    for (dataset, feature), column in columns.items():
        values = column[np.isfinite(column)]
        total = max(total, column.size)
        if values.size < max(rules.min_count, 1):
            part: Mapping[str, NDArray[Any]] = {"withheld": np.ones(1, dtype=np.int64)}
        elif task.scalars["pass"] == 1:
            part = _measure(values, column.size - values.size, rules, (ranges or {}).get(feature))
        else:
            part = _describe(values, rules, task, f"{dataset}/{feature}")
        found |= {f"{dataset}/{feature}/{name}": array for name, array in part.items()}
    told = total if total >= max(rules.min_count, 1) else 0  # that it has three patients is nobody's business
    return Update(params=found, kind=UpdateKind.FULL, samples=told)


def hide_small(counts: Ints, min_count: int) -> Ints:
    """`counts` with HIDDEN for those from 1 to below `min_count`.

    Were only one hidden, or few values in all, the total would tell it: then the next smallest are
    hidden too. An empty bin stays 0, as it speaks of nobody.
    """
    hidden = (counts > 0) & (counts < min_count)
    while hidden.any() and (hidden.sum() < 2 or counts[hidden].sum() < min_count):
        rest = np.flatnonzero(~hidden & (counts > 0))
        if not rest.size:
            break
        hidden[rest[np.argmin(counts[rest])]] = True
    return np.where(hidden, HIDDEN, counts)


def group(values: Floats, min_count: int, max_bins_percent: float) -> tuple[Floats, Ints]:
    """The means and sizes of equal slices of the sorted values, none smaller than `min_count`."""
    allowed = min(values.size // max(min_count, 1), int(values.size * max_bins_percent / 100), MOST_GROUPS)
    slices = np.array_split(np.sort(values), max(allowed, 1))
    return np.array([one.mean() for one in slices]), np.array([one.size for one in slices], dtype=np.int64)


def widen_range(values: Floats, word: str) -> Floats | None:
    """Smallest and largest value, as far as they may be told.

    Noise moves each outwards, by 0.1 to 0.3 of the range. It follows from the values, which the server
    does not have: asking again gives the same, so that nobody can average it away.
    """
    if word == "never":
        return None
    low, high = float(values.min()), float(values.max())
    if word == "noise":
        ordered = np.sort(values)  # an app that shuffles would draw anew each time
        digest = hashlib.blake2b(ordered.tobytes(), digest_size=16).digest()
        draws = np.frombuffer(digest, dtype="<u8") / 2.0**64
        moves = (_NOISE[0] + draws * (_NOISE[1] - _NOISE[0])) * ((high - low) or max(abs(low), 1.0))
        low, high = low - float(moves[0]), high + float(moves[1])
    return np.array([low, high])


@dataclass(frozen=True, kw_only=True)
class _Rules:
    min_count: int
    max_bins_percent: float
    extremes: str
    bins: int


def _read_rules(job: Mapping[str, Scalar], site: StatisticsRules) -> _Rules:
    """The stricter of what the job asks and what the site allows."""
    try:
        extremes = max(str(job["extremes"]), site.extremes, key=EXTREMES.index)
        return _Rules(
            min_count=max(int(job["min_count"]), site.min_count),
            max_bins_percent=min(float(job["max_bins_percent"]), site.max_bins_percent),
            extremes=extremes,
            bins=int(job["bins"]),
        )
    except (KeyError, ValueError) as error:
        raise Misuse(
            f"the task does not say how to summarise ({error})",
            hint="summarise() answers the tasks of workflow: {type: federated_statistics}",
        ) from error


def _read_columns(data: Columns | Mapping[str, Columns]) -> dict[tuple[str, str], Floats]:
    nested = bool(data) and all(isinstance(value, Mapping) for value in data.values())
    sets: Mapping[str, Any] = data if nested else {ALL: data}
    found = {}
    for dataset, columns in sets.items():
        if not dataset or "/" in dataset:
            raise Misuse(f"{dataset!r} is no name for a data set; it must not be empty or have a /")
        for feature, values in columns.items():
            try:
                column = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise Misuse(f"feature {feature!r} is no column of numbers: {error}") from error
            if column.ndim != 1 or not feature:
                raise Misuse(
                    f"feature {feature!r} has {column.ndim} dimensions; a column has one, and a name"
                )
            found[dataset, feature] = column
    if not found:
        raise Misuse("there are no features to summarise")
    return found


def _measure(
    values: Floats, failures: int, rules: _Rules, fixed: tuple[float, float] | None
) -> Mapping[str, NDArray[Any]]:
    """The first pass: how many, their sum and, as far as it may be told, their range."""
    found: dict[str, NDArray[Any]] = {
        "count": np.array([values.size], dtype=np.int64),
        "failures": np.array([failures], dtype=np.int64),
        "sum": np.array([values.sum()]),
    }
    if (span := widen_range(values, rules.extremes)) is not None:
        found["range"] = span
    if fixed is not None:
        found["fixed"] = np.array(fixed, dtype=np.float64)
    return found


def _describe(values: Floats, rules: _Rules, task: Task, name: str) -> Mapping[str, NDArray[Any]]:
    """The second pass: deviations from the mean of all sites, the histogram in their range, the groups."""
    center = task.extra.get(f"{name}/center")
    if center is None:
        return {"withheld": np.ones(1, dtype=np.int64)}  # it was in the first pass, or nobody has it
    away = values - float(center[0])
    means, sizes = group(values, rules.min_count, rules.max_bins_percent)
    found: dict[str, NDArray[Any]] = {
        "deviations": np.array([away.sum(), (away * away).sum()]),
        "groups": means,
        "group_counts": sizes,
    }
    span = task.extra.get(f"{name}/range")
    if span is not None and rules.bins <= values.size * rules.max_bins_percent / 100:
        low, high = (float(bound) for bound in span)
        if not (np.diff(np.linspace(low, high, rules.bins + 1)) > 0).all():
            return found  # there are not so many numbers between the two
        inside, _ = np.histogram(values, bins=rules.bins, range=(low, high))
        counts = np.concatenate([[(values < low).sum()], inside, [(values > high).sum()]])
        found["histogram"] = hide_small(counts.astype(np.int64), rules.min_count)
    return found
