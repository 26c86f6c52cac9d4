# SPDX-License-Identifier: Apache-2.0
"""BaseFedAvg: federated averaging in parts, for algorithms that put them together in their own `run`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.aggregators.weighted_aggregation_helper import (
    WeightedAggregationHelper,
    step_weight,
)
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.app_event_type import AppEventType
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils
from flprov.flare.app_common.workflows.model_controller import ModelController


class BaseFedAvg(ModelController):
    """Adds `aggregate` and `update_model`.

    Args:
        num_clients: how many sites `run` samples for each round.
        num_rounds: how many rounds; None: `workflow.rounds` of job.yml.
        start_round: the number of the first.
        memory_gc_rounds: nothing is to be collected by hand here.
    """

    num_clients: int | None = 3

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - ModelController's
        num_clients: int | None = 3,
        num_rounds: int | None = None,
        start_round: int = 0,
        memory_gc_rounds: int = 0,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.num_clients = num_clients
        self.num_rounds = num_rounds
        self.start_round = start_round
        self.memory_gc_rounds = memory_gc_rounds

    def rounds_left(self) -> range:
        """The numbers of the rounds that are still to do."""
        return range(self.start_round, self.start_round + (self.num_rounds or 0))

    def aggregate(
        self, results: list[FLModel], aggregate_fn: Callable[[list[FLModel]], FLModel] | None = None
    ) -> FLModel:
        """One FLModel of many, by `aggregate_fn` or weighted by NUM_STEPS_CURRENT_ROUND.

        Raises:
            ValueError: there are no results, or one has no params.
        """
        self.event(AppEventType.BEFORE_AGGREGATION)
        empty = [str((result.meta or {}).get("client_name")) for result in results if not result.params]
        if empty:
            raise ValueError(f"the results of {', '.join(empty)} have no params")
        self.info(f"aggregating {len(results)} update(s) at round {self.current_round}")
        found = (aggregate_fn or self.aggregate_fn)(results)
        self.fire_event_with_data(
            AppEventType.AFTER_AGGREGATION, self.fl_ctx, AppConstants.AGGREGATION_RESULT, found
        )
        return found

    @staticmethod
    def aggregate_fn(results: list[FLModel]) -> FLModel:
        """The weighted means of params and of metrics.

        Raises:
            ValueError: there are no results, or some are weights and others differences.
        """
        if not results:
            raise ValueError("there is nothing to aggregate: no site has answered")
        kind = read_kind(results)
        mean = WeightedAggregationHelper()
        for number, result in enumerate(results):
            name = str(result.meta.get("client_name", number))
            mean.add(result.params or {}, step_weight(result.meta), name, result.current_round)
        return FLModel(
            params_type=kind,
            params=mean.get_result(),
            metrics=mean_metrics(results),
            meta={"nr_aggregated": len(results), "current_round": results[0].current_round},
        )

    def update_model(self, model: FLModel, aggr_result: FLModel) -> FLModel:
        """`model` with the aggregated weights or difference: the global model from now on."""
        self.event(AppEventType.BEFORE_SHAREABLE_TO_LEARNABLE)
        updated = FLModelUtils.update_model(model, aggr_result)
        self.set_global_model(updated)
        self.event(AppEventType.AFTER_SHAREABLE_TO_LEARNABLE)
        return updated


def read_kind(results: list[FLModel]) -> ParamsType | None:
    """Whether all are weights, or all differences. Raises ValueError when some are this and some that."""
    first, *others = results
    for other in others:
        if other.params_type != first.params_type:
            told = [f"{one.meta.get('client_name')} sent {one.params_type}" for one in (first, other)]
            raise ValueError(f"{' and '.join(told)}: weights and differences have no mean together")
    return first.params_type


def mean_metrics(
    results: list[FLModel], factors: Mapping[str, float] | None = None
) -> dict[str, float] | None:
    """The weighted mean of each metric that is a finite number; None unless every site has metrics.

    Args:
        results: of the sites.
        factors: site -> factor of its weight.
    """
    if any(result.metrics is None for result in results):
        return None
    mean = WeightedAggregationHelper()
    for number, result in enumerate(results):
        numbers = {name: float(v) for name, v in (result.metrics or {}).items() if is_number(v)}
        name = str(result.meta.get("client_name", number))
        if weight := (factors or {}).get(name, 1.0) * step_weight(result.meta):
            mean.add(numbers, weight, name, result.current_round)
    return mean.get_result() or None


def is_number(value: object) -> bool:
    """Whether a metric can be averaged."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
