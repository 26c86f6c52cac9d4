# SPDX-License-Identifier: Apache-2.0
"""WeightedAggregationHelper: the weighted mean of dicts of arrays or numbers.

The same fold as in our own workflows: in float64, in the order of the contributors' names, not of coming.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flprov.flare.apis.fl_constant import FLMetaKey
from flprov.messages import Update, UpdateKind
from flprov.sdk import as_tensors, weighted_mean


class WeightedAggregationHelper:
    """Each key is averaged over those who have it. Whole numbers in arrays are those of the heaviest.

    Args:
        exclude_vars: a regular expression; keys that it finds are left out.
        weigh_by_local_iter: False counts everybody alike.
    """

    def __init__(self, exclude_vars: str | None = None, weigh_by_local_iter: bool = True) -> None:
        self.exclude_vars = re.compile(exclude_vars) if exclude_vars else None
        self._weigh = weigh_by_local_iter
        self._updates: list[Update] = []
        self._plain: set[str] = set()  # keys whose values were no arrays, but numbers
        self._history: list[dict[str, Any]] = []

    def reset_stats(self) -> None:
        """Forget everything."""
        self._updates, self._plain, self._history = [], set(), []

    def add(
        self, data: Mapping[str, Any], weight: float, contributor_name: str, contribution_round: object
    ) -> None:
        """Take one contribution. Raises Misuse for what is no array and no number."""
        kept = {name: value for name, value in data.items() if not self._is_left_out(name)}
        numbers = {name for name, value in kept.items() if isinstance(value, bool | int | float)}
        self._plain |= numbers
        params = as_tensors({name: float(v) if name in numbers else v for name, v in kept.items()})
        share = float(weight) if self._weigh else 1.0
        self._updates.append(Update(site=contributor_name, params=params, kind=UpdateKind.FULL, weight=share))
        self._history.append(
            {"contributor_name": contributor_name, "round": contribution_round, "weight": weight}
        )

    def get_result(self) -> dict[str, Any]:
        """The means, and a new start.

        Raises:
            UpdateRefused: two contributions of a key have different shapes.
            JobFailed: the weights of a key are all 0.
        """
        found: dict[str, Any] = {}
        names = list(dict.fromkeys(name for update in self._updates for name in update.params))
        for name in names:
            parts = [
                Update(site=u.site, params={name: u.params[name]}, kind=UpdateKind.FULL, weight=u.weight)
                for u in self._updates
                if name in u.params
            ]
            mean = weighted_mean(parts)[name]
            found[name] = float(mean) if name in self._plain else mean
        self.reset_stats()
        return found

    def get_history(self) -> list[dict[str, Any]]:
        """Who has contributed, in the order of coming."""
        return self._history

    def get_len(self) -> int:
        """How many have."""
        return len(self._history)

    def _is_left_out(self, name: str) -> bool:
        return self.exclude_vars is not None and self.exclude_vars.search(name) is not None


def step_weight(meta: Mapping[str, Any] | None) -> float:
    """What a contribution counts: its number of steps, or 1 where it says none."""
    found = (meta or {}).get(FLMetaKey.NUM_STEPS_CURRENT_ROUND)
    if isinstance(found, bool) or not isinstance(found, int | float | np.number):
        return 1.0
    return float(found) if np.isfinite(found) and found >= 0 else 1.0
