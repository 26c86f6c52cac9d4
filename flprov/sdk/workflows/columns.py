# SPDX-License-Identifier: Apache-2.0
"""One column of all sites: what each says of it, checked, and what follows for all of them together.

The sites' numbers come from their own processes and are taken for hostile: whatever does not fit is
refused, with site and feature named.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import UpdateRefused
from flprov.messages import Update
from flprov.sdk.summaries import HIDDEN, MOST_GROUPS

Array = NDArray[Any]
_MOST_COLUMNS = 10_000
_MOST_NAME = 256
_MOST_VALUES = 1 << 53  # the whole numbers that a double holds exactly
_LARGEST = 1e100  # so that sums and squares over all sites stay finite
_ANY = -1  # as a length: from 1 to MOST_GROUPS

# Pass -> what may stand there: dtype and length; the first ones must, unless the site withholds all.
_PASSES: Mapping[int, Mapping[str, tuple[str, int]]] = {
    1: {
        "count": ("int64", 1),
        "failures": ("int64", 1),
        "sum": ("float64", 1),
        "range": ("float64", 2),
        "fixed": ("float64", 2),
    },
    2: {
        "deviations": ("float64", 2),
        "groups": ("float64", _ANY),
        "group_counts": ("int64", _ANY),
        "histogram": ("int64", 0),  # as many as bins, and the two outside
    },
}
_NEEDED = {1: ("count", "failures", "sum"), 2: ("deviations", "groups", "group_counts")}


@dataclass(frozen=True, kw_only=True)
class ColumnPart:
    """What one site says of one column."""

    site: str
    values: Mapping[str, Array]

    @property
    def count(self) -> int:
        """How many values it has there."""
        return int(self.values["count"][0])

    @property
    def fixed(self) -> tuple[float, float] | None:
        """The range that the app has given the histogram."""
        own = self.values.get("fixed")
        return None if own is None else (float(own[0]), float(own[1]))


@dataclass(frozen=True, kw_only=True)
class Column:
    """One feature of one data set, at every site that speaks of it."""

    dataset: str
    feature: str
    parts: Mapping[str, ColumnPart] = field(default_factory=dict)
    withheld: tuple[str, ...] = ()  # sites that have too few values to speak of

    @property
    def name(self) -> str:
        """As it stands before the names of its numbers."""
        return f"{self.dataset}/{self.feature}"

    @property
    def mean(self) -> float:
        """Over all sites; after the first pass."""
        total = math.fsum(float(part.values["sum"][0]) for part in self.parts.values())
        return total / sum(part.count for part in self.parts.values())

    @property
    def extremes(self) -> tuple[float, float] | None:
        """From the sites' own, which may have noise; None where a site does not tell them."""
        found = [part.values.get("range") for part in self.parts.values()]
        told = [span for span in found if span is not None]
        if not told or len(told) < len(found):
            return None
        return min(float(span[0]) for span in told), max(float(span[1]) for span in told)

    @property
    def span(self) -> tuple[float, float] | None:
        """The range of the histogram: the app's own, or the extremes."""
        fixed = next((own for part in self.parts.values() if (own := part.fixed) is not None), None)
        found = fixed or self.extremes
        return (found[0] - 0.5, found[1] + 0.5) if found and found[0] == found[1] else found


def common_ranges(columns: Iterable[Column]) -> Mapping[str, tuple[float, float]]:
    """Column -> the range that most sites' apps give it; of as many, that of the first site."""
    found = {}
    for column in columns:
        given = Counter(own for part in column.parts.values() if (own := part.fixed) is not None)
        if given:
            found[column.name] = given.most_common(1)[0][0]
    return found


def verify_ranges(columns: Iterable[Column], common: Mapping[str, tuple[float, float]]) -> None:
    """Raise UpdateRefused if a site gives a column another range than `common`: no histogram fits both."""
    for column in columns:
        for site, part in column.parts.items():
            if part.fixed is not None and part.fixed != common[column.name]:
                raise UpdateRefused(f"{site} has another range for {column.name!r} than most sites")


def read_parts(updates: Iterable[Update], number: int, bins: int) -> list[Column]:
    """The columns in the answers to pass `number`, in the order of their names.

    Raises:
        UpdateRefused: an answer is not what `flprov.sdk.summarise` gives; it names site and feature.
    """
    columns: dict[tuple[str, str], tuple[dict[str, ColumnPart], list[str]]] = {}
    for update in updates:
        for (dataset, feature), values in _split(update).items():
            parts, withheld = columns.setdefault((dataset, feature), ({}, []))
            if set(values) == {"withheld"}:
                withheld.append(update.site)
                continue
            _verify(values, number, bins, f"feature {feature!r} of {update.site}")
            parts[update.site] = ColumnPart(site=update.site, values=values)
    if len(columns) > _MOST_COLUMNS:
        raise UpdateRefused(f"the sites name {len(columns)} features; the limit is {_MOST_COLUMNS}")
    return [
        Column(dataset=dataset, feature=feature, parts=parts, withheld=tuple(withheld))
        for (dataset, feature), (parts, withheld) in sorted(columns.items())
    ]


class ColumnRoom:
    """Room for so many columns in all. Who names few is to be asked before who names many."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def take(self, columns: Iterable[Column], site: str) -> None:
        """Raise UpdateRefused if a site's columns have no room beside those of the sites before it."""
        names = self._names.union(column.name for column in columns)
        if len(names) > _MOST_COLUMNS:
            more = len(names) - len(self._names)
            raise UpdateRefused(
                f"{site} names {more} features that no other site has; the limit is {_MOST_COLUMNS} in all"
            )
        self._names = names


def join(first: ColumnPart, second: ColumnPart, name: str) -> ColumnPart:
    """Both passes of one site. Raises UpdateRefused where they do not speak of as many values."""
    values = {**first.values, **second.values}
    shown = int(np.maximum(values.get("histogram", np.zeros(1)), 0).sum())
    if int(values["group_counts"].sum()) != first.count or shown > first.count:
        raise UpdateRefused(f"{first.site} counts {name!r} otherwise in the second pass than in the first")
    return ColumnPart(site=first.site, values=values)


def describe_column(
    parts: Sequence[ColumnPart], column: Column, levels: Sequence[float]
) -> dict[str, object]:
    """The statistics of these sites' values together; after both passes."""
    count = sum(part.count for part in parts)
    if not count:
        return {"count": 0}
    center = column.mean
    first = math.fsum(float(part.values["deviations"][0]) for part in parts)
    second = math.fsum(float(part.values["deviations"][1]) for part in parts)
    spread = max(second - first * first / count, 0.0)  # rounding may leave it a hair below
    told = Column(
        dataset=column.dataset, feature=column.feature, parts={part.site: part for part in parts}
    ).extremes
    return {
        "count": count,
        "failures": sum(int(part.values["failures"][0]) for part in parts),
        "sum": math.fsum(float(part.values["sum"][0]) for part in parts),
        "mean": center + first / count,
        "stddev": math.sqrt(spread / (count - 1)) if count > 1 else None,
        "min": told[0] if told else None,
        "max": told[1] if told else None,
        "histogram": _merge_histograms(parts, column.span),
        "quantiles": {f"{level:g}": value for level, value in _quantiles(parts, levels).items()},
        "quantile_rank_error": _rank_error(parts),
    }


def _split(update: Update) -> dict[tuple[str, str], dict[str, Array]]:
    found: dict[tuple[str, str], dict[str, Array]] = {}
    for name, array in sorted(update.params.items()):
        dataset, _, rest = name.partition("/")
        feature, _, what = rest.rpartition("/")
        if not (dataset and feature and what) or len(name) > _MOST_NAME or not name.isprintable():
            raise UpdateRefused(f"{update.site} sent {ascii(name)[:80]}, which names no feature's statistics")
        found.setdefault((dataset, feature), {})[what] = array
    return found


def _verify(values: Mapping[str, Array], number: int, bins: int, whose: str) -> None:
    known = _PASSES[number]
    for what in sorted(set(values) - set(known) | set(_NEEDED[number]) - set(values)):
        problem = "is not asked for" if what in values else "is missing"
        raise UpdateRefused(f"{what[:40]!r} of {whose} {problem}")
    for what, array in values.items():
        dtype, length = known[what]
        longest = MOST_GROUPS if length == _ANY else length or bins + 2
        fits = array.ndim == 1 and array.dtype == dtype and 1 <= array.size <= longest
        if not fits or (length != _ANY and array.size != longest):
            raise UpdateRefused(
                f"{what!r} of {whose} is {array.dtype}{list(array.shape)}, which does not fit"
            )
        if not np.isfinite(array).all():
            raise UpdateRefused(f"{what!r} of {whose} holds NaN or infinity")
        if array.dtype.kind == "f" and np.abs(array).max() > _LARGEST:
            raise UpdateRefused(f"{what!r} of {whose} is beyond {_LARGEST:g}")
        lowest = {"count": 1, "failures": 0, "group_counts": 1, "histogram": HIDDEN}.get(what)
        if lowest is not None and not (lowest <= array.min() and array.max() <= _MOST_VALUES):
            raise UpdateRefused(f"{what!r} of {whose} is out of its range")
        if what in ("range", "fixed") and not array[0] <= array[1]:
            raise UpdateRefused(f"{what!r} of {whose} ends before it begins")
    if number == 2:
        if values["deviations"][1] < 0:
            raise UpdateRefused(f"'deviations' of {whose} is out of its range")
        if values["groups"].shape != values["group_counts"].shape:
            raise UpdateRefused(f"'groups' of {whose} are not as many as their counts")


def _merge_histograms(
    parts: Sequence[ColumnPart], span: tuple[float, float] | None
) -> Mapping[str, object] | None:
    """The sum of the sites' bins; a bin that a site hides counts nothing there, and in `withheld`."""
    given = [part.values["histogram"] for part in parts if "histogram" in part.values]
    if span is None or not given:
        return None
    counts = sum(np.maximum(one, 0) for one in given)
    assert isinstance(counts, np.ndarray)
    return {
        "edges": np.linspace(span[0], span[1], counts.size - 1).tolist(),
        "counts": counts[1:-1].tolist(),
        "below": int(counts[0]),
        "above": int(counts[-1]),
        "withheld": sum(part.count for part in parts) - int(counts.sum()),
    }


def _quantiles(parts: Sequence[ColumnPart], levels: Sequence[float]) -> Mapping[float, float]:
    """Interpolated between the middles of the groups' ranks; of single values, numpy's own quantile."""
    means = np.concatenate([part.values["groups"] for part in parts])
    sizes = np.concatenate([part.values["group_counts"] for part in parts])
    order = np.argsort(means, kind="stable")
    means, sizes = means[order], sizes[order]
    middles = np.cumsum(sizes) - (sizes + 1) / 2
    found = np.interp(np.asarray(levels) * (sizes.sum() - 1), middles, means)
    return dict(zip(levels, found.tolist(), strict=True))


def _rank_error(parts: Sequence[ColumnPart]) -> float:
    """By how much the rank of a quantile may be off, as a share of all values.

    At most one group of each site lies on both sides of any number, and its values are counted on one;
    the interpolation stays between two groups.
    """
    widest = [int(part.values["group_counts"].max()) for part in parts]
    total = sum(int(part.values["group_counts"].sum()) for part in parts)
    return min(1.0, (sum(widest) + max(widest)) / total)
