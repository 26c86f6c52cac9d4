# SPDX-License-Identifier: Apache-2.0
"""Federated statistics: the columns of all sites described together, as if they lay in one table.

Two rounds: the first gives every column's mean and range over all sites, the second each site's
deviations from that mean (Chan, Golub, LeVeque: "Algorithms for Computing the Sample Variance", The
American Statistician 37, 1983, the corrected two-pass algorithm), its histogram in that range, and the
groups that quantiles are read from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flprov.errors import ConfigError
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.judging import keep_sound
from flprov.sdk.sites import Sites
from flprov.sdk.state import State
from flprov.sdk.summaries import EXTREMES
from flprov.sdk.workflows.columns import (
    Column,
    ColumnRoom,
    common_ranges,
    describe_column,
    join,
    read_parts,
    verify_ranges,
)

RESULT = "statistics.json"
TASK = "statistics"
_MOST_BINS = 10_000
_HINT = "let the task answer with flprov.sdk.summarise"


@dataclass(frozen=True, kw_only=True)
class FederatedStatistics:
    """Counts, sums, means, deviations, histograms and quantiles, per feature: of all, and of each site.

    The task "statistics" answers with `flprov.sdk.summarise`. A site says nothing of a feature with fewer
    than `min_count` values, and of no bin either; its policy can ask for more and allow less.

    Attributes:
        bins: of every histogram.
        quantiles: which to give, with commas between.
        min_count: fewer values than this are not spoken of.
        max_bins_percent: a site with fewer values gives no histogram: 20 bins at 10 % take 200 values.
        extremes: how smallest and largest value are told: "exact", "noise" or "never".
    """

    bins: int = 20
    quantiles: str = "0.25, 0.5, 0.75"
    min_count: int = 10
    max_bins_percent: float = 10.0
    extremes: str = "noise"

    def __post_init__(self) -> None:
        if not 1 <= self.bins <= _MOST_BINS:
            raise ConfigError(f"workflow.bins is {self.bins}; it must be from 1 to {_MOST_BINS}")
        if self.min_count < 1:
            raise ConfigError(f"workflow.min_count is {self.min_count}; it must be at least 1")
        if not 0 < self.max_bins_percent <= 100:
            raise ConfigError(f"workflow.max_bins_percent is {self.max_bins_percent}; it is above 0, to 100")
        if self.extremes not in EXTREMES:
            raise ConfigError(f"workflow.extremes is {self.extremes!r}; it must be one of {EXTREMES}")
        self.levels  # noqa: B018 - so that a mistake shows at once

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles as numbers. Raises ConfigError."""
        try:
            found = tuple(float(text) for text in self.quantiles.split(",") if text.strip())
        except ValueError:
            found = (-1.0,)
        if not all(0 <= level <= 1 for level in found):
            raise ConfigError(
                f"workflow.quantiles is {self.quantiles!r}; write numbers from 0 to 1, as in 0.5, 0.9"
            )
        return found

    def run(self, sites: Sites, state: State) -> None:
        """Two passes, whatever `rounds` says."""
        for state in sites.rounds(state, 2):  # noqa: B020 - each round starts with what the last committed
            if state.round == 0:
                updates = self._first_pass(sites)
                kept = {f"{u.site}/{name}": array for u in updates for name, array in u.params.items()}
                samples = {u.site: u.samples for u in updates}
                results = {RESULT: {"absent": dict(sites.absent)}}
                sites.commit(state.next(tensors=kept, scalars=samples, results=results))
                continue
            first = [
                Update(site=site, samples=int(samples), params=_of_site(site, state.tensors))
                for site, samples in sorted(state.scalars.items())
            ]
            columns = read_parts(first, 1, self.bins)
            updates = self._second_pass(sites, list(state.scalars), columns)
            gone = {**_mapping(_mapping(state.results[RESULT])["absent"]), **sites.absent}
            document = self._document(columns, read_parts(updates, 2, self.bins), updates, gone)
            sites.commit(state.next(tensors={}, scalars={}, results={RESULT: document}))

    def _first_pass(self, sites: Sites) -> list[Update]:
        """The updates that can be read, and whose columns go with those of most sites."""
        updates = self._keep_readable(sites, self._ask(sites, 1), 1)
        ranges = common_ranges(read_parts(updates, 1, self.bins))
        return keep_sound(
            sites, updates, lambda update: verify_ranges(read_parts([update], 1, self.bins), ranges)
        )

    def _second_pass(self, sites: Sites, to: list[str], columns: Sequence[Column]) -> list[Update]:
        """The updates that can be read, and that speak of as many values as those of the first pass."""
        before = {column.name: column for column in columns}

        def verify(columns: Sequence[Column], update: Update) -> None:
            for column in columns:
                part = before[column.name].parts.get(update.site) if column.name in before else None
                if part is not None and update.site in column.parts:
                    join(part, column.parts[update.site], column.name)

        return self._keep_readable(sites, self._ask(sites, 2, to=to, extra=_centers(columns)), 2, verify)

    def _keep_readable(
        self,
        sites: Sites,
        updates: Sequence[Update],
        number: int,
        verify: Callable[[Sequence[Column], Update], None] = lambda _columns, _update: None,
    ) -> list[Update]:
        """The updates that can be read, in canonical order; whose features are the most is looked at last."""
        room = ColumnRoom()

        def read(update: Update) -> None:
            columns = read_parts([update], number, self.bins)
            verify(columns, update)
            room.take(columns, update.site)

        in_turn = sorted(updates, key=lambda update: len({name.rpartition("/")[0] for name in update.params}))
        return sorted(keep_sound(sites, in_turn, read, hint=_HINT), key=lambda update: update.site)

    def _ask(
        self, sites: Sites, number: int, to: list[str] | None = None, extra: Tensors | None = None
    ) -> list[Update]:
        scalars: dict[str, Scalar] = {
            "pass": number,
            "bins": self.bins,
            "min_count": self.min_count,
            "max_bins_percent": self.max_bins_percent,
            "extremes": self.extremes,
        }
        return sites.broadcast(
            TASK, {}, to=to, expects=(UpdateKind.FULL,), extra=extra or {}, scalars=scalars
        )

    def _document(
        self,
        first: Iterable[Column],
        second: Iterable[Column],
        updates: Sequence[Update],
        gone: Mapping[str, object],
    ) -> Mapping[str, object]:
        """What statistics.json says."""
        there = {update.site for update in updates}
        deviations = {column.name: column for column in second}
        datasets: dict[str, dict[str, object]] = {}
        for column in first:
            other = deviations.get(column.name)
            parts = {
                site: join(part, other.parts[site], column.name)
                for site, part in column.parts.items()
                if other is not None and site in other.parts
            }
            datasets.setdefault(column.dataset, {})[column.feature] = {
                **describe_column(list(parts.values()), column, self.levels),
                "sites": {site: describe_column([part], column, self.levels) for site, part in parts.items()},
                "withheld": [site for site in column.withheld if site in there],
            }
        return {
            "rules": {
                "min_count": self.min_count,
                "max_bins_percent": self.max_bins_percent,
                "extremes": self.extremes,
            },
            "sites": {update.site: update.samples for update in updates},
            "absent": {site: why for site, why in sorted(gone.items()) if site not in there},
            "datasets": datasets,
        }


def _centers(columns: Iterable[Column]) -> Tensors:
    """What the second pass is measured against: each column's mean and range over all sites."""
    found = {}
    for column in columns:
        if column.parts:
            found[f"{column.name}/center"] = np.array([column.mean])
        if column.span is not None:
            found[f"{column.name}/range"] = np.array(column.span)
    return found


def _of_site(site: str, tensors: Tensors) -> Tensors:
    start = f"{site}/"
    return {name.removeprefix(start): array for name, array in tensors.items() if name.startswith(start)}


def _mapping(document: object) -> Mapping[str, object]:
    assert isinstance(document, Mapping)
    return document
