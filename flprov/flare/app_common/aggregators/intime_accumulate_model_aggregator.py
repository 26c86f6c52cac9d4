# SPDX-License-Identifier: Apache-2.0
"""InTimeAccumulateWeightedAggregator: the weighted mean of what controllers hand it.

The same fold as in our own workflows: in float64, in the order of the sites' names, whatever came first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flprov.errors import JobFailed
from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from flprov.flare.apis.fl_constant import ReservedKey, ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.aggregator import Aggregator
from flprov.flare.app_common.app_constant import AppConstants
from flprov.messages import Update, UpdateKind
from flprov.sdk import as_tensors, weighted_mean

# A mean of differences is one itself, so every kind is folded as plain tensors.
_KINDS = (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF)


class InTimeAccumulateWeightedAggregator(Aggregator):
    """Weighs by NUM_STEPS_CURRENT_ROUND, times `aggregation_weights` by site.

    Args:
        exclude_vars: a regular expression; tensors whose names it finds are left out.
        expected_data_kind: None takes weights or differences, as the first one has it.
    """

    def __init__(
        self,
        exclude_vars: str | None = None,
        aggregation_weights: Mapping[str, float] | None = None,
        expected_data_kind: str | None = None,
        weigh_by_local_iter: bool = True,
    ) -> None:
        super().__init__()
        self.exclude_vars = exclude_vars
        self.aggregation_weights = dict(aggregation_weights or {})
        self.expected_data_kind = expected_data_kind
        self._weigh = weigh_by_local_iter
        self._kind: str | None = None
        self._updates: dict[str, Update] = {}

    def reset(self, fl_ctx: FLContext) -> None:  # noqa: ARG002
        """See `Aggregator.reset`."""
        self._updates, self._kind = {}, None

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Take a site's weights, once a round; False, with a line in the log, when they do not fit."""
        site = str(shareable.get_peer_prop(ReservedKey.IDENTITY_NAME, "?"))
        if problem := self._problem(site, shareable, fl_ctx):
            self.log_warning(fl_ctx, f"left out {site}: {problem}")
            return False
        dxo = from_shareable(shareable)
        self._kind = str(DataKind(dxo.data_kind).value)
        left = re.compile(self.exclude_vars) if self.exclude_vars else None
        data = {name: value for name, value in dxo.data.items() if left is None or not left.search(name)}
        self._updates[site] = Update(
            site=site, params=as_tensors(data), kind=UpdateKind.FULL, weight=self._weight(site, dxo)
        )
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """The weighted mean, and a new start.

        Raises:
            JobFailed: there is nothing to average.
        """
        if not self._updates:
            raise JobFailed("the aggregator was asked for a mean before it had accepted anything")
        mean = weighted_mean(self._updates.values())
        made = DXO(self._kind or DataKind.WEIGHTS, data=dict(mean)).to_shareable()
        self.reset(fl_ctx)
        return made

    def _problem(self, site: str, shareable: Shareable, fl_ctx: FLContext) -> str:
        if (code := shareable.get_return_code()) != ReturnCode.OK:
            return f"its answer has the return code {code}"
        try:
            dxo = from_shareable(shareable)
        except ValueError as error:
            return str(error)
        expected = self.expected_data_kind or self._kind
        if dxo.data_kind not in _KINDS or (expected and dxo.data_kind != expected):
            return f"it sent {dxo.data_kind}, expected was {expected or 'WEIGHTS or WEIGHT_DIFF'}"
        if site in self._updates:
            return "it has contributed to this round already"
        sent = shareable.get_cookie(AppConstants.CONTRIBUTION_ROUND)
        now = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        if sent is not None and now is not None and sent != now:
            return f"it answers round {sent}, not {now}"
        return ""

    def _weight(self, site: str, dxo: DXO) -> float:
        steps = dxo.meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND, 1.0) if self._weigh else 1.0
        return float(steps) * float(self.aggregation_weights.get(site, 1.0))
