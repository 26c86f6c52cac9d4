# SPDX-License-Identifier: Apache-2.0
"""FedAvg: federated averaging that may end early, with weights of its own for sites, or an own aggregator.

`workflow: {type: fedavg}` is the same without these; its `best` and `patience` are the runtime's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flprov.flare.app_common.abstract.fl_model import FLModel, ParamsType
from flprov.flare.app_common.aggregators.model_aggregator import ModelAggregator
from flprov.flare.app_common.aggregators.weighted_aggregation_helper import (
    WeightedAggregationHelper,
    step_weight,
)
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.app_event_type import AppEventType
from flprov.flare.app_common.utils.math_utils import parse_compare_criteria
from flprov.flare.app_common.workflows.base_fedavg import BaseFedAvg, mean_metrics, read_kind


class FedAvg(BaseFedAvg):
    """Without `stop_cond` the result is the last round's model, else that of the best round.

    Args:
        model: weights to start from, instead of the model of job.yml.
        save_filename: models are kept by the runtime; an own `save_model` may use it.
        aggregator: makes one model of many, instead of the weighted mean.
        stop_cond: `"accuracy >= 80"`: end the job when the mean of that metric is there.
        patience: rounds in a row that may be no better, before the job ends.
        task_name: what the sites are asked for.
        exclude_vars: a regular expression; weights that it finds stay as they were sent.
        aggregation_weights: site -> factor of its weight in the means of weights and metrics.
        fedprox_mu: sent to the sites as meta `fedprox_mu`.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - BaseFedAvg's
        model: Mapping[str, Any] | FLModel | None = None,
        save_filename: str | None = "FL_global_model.pt",
        aggregator: ModelAggregator | None = None,
        stop_cond: str | None = None,
        patience: int | None = None,
        task_name: str = AppConstants.TASK_TRAIN,
        exclude_vars: str | None = None,
        aggregation_weights: Mapping[str, float] | None = None,
        enable_tensor_disk_offload: bool = False,
        fedprox_mu: float | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model = model
        self.save_filename = save_filename
        self.aggregator = aggregator
        self.stop_cond = stop_cond
        self.patience = patience
        self.task_name = task_name
        self.exclude_vars = exclude_vars
        self.aggregation_weights = dict(aggregation_weights or {})
        self.enable_tensor_disk_offload = enable_tensor_disk_offload  # updates are mapped files here
        self.fedprox_mu = fedprox_mu
        self.stop_condition = parse_compare_criteria(stop_cond) if stop_cond else None
        self.num_fl_rounds_without_improvement = 0
        self.best_target_metric_value: float | None = None

    def run(self) -> None:  # type: ignore[override]  # see ModelController
        """Rounds of train, aggregate, update; saves the model of each, or of each that is better."""
        model = self._first_model()
        model.start_round, model.total_rounds = self.start_round, self.num_rounds
        for number in self.rounds_left():
            self.current_round = model.current_round = number
            if self.fedprox_mu:
                model.meta["fedprox_mu"] = self.fedprox_mu
            self.event(AppEventType.ROUND_STARTED)
            clients = self.sample_clients(self.num_clients)
            results = self.send_model_and_wait(self.task_name, model, clients)
            model = self.update_model(model, self.aggregate(results, self._choose_mean))
            if self.is_curr_model_better(model):
                self.save_model(model)
            if self.should_stop(model.metrics):
                break

    def should_stop(self, metrics: Mapping[str, Any] | None = None) -> bool:
        """Whether the condition holds, or patience has run out."""
        if self.stop_condition is None or metrics is None:
            return False
        if self.patience and self.patience <= self.num_fl_rounds_without_improvement:
            self.info(f"no better round in {self.num_fl_rounds_without_improvement}: the job ends")
            return True
        name, target, compare = self.stop_condition
        if name not in metrics:
            self.warning(f"stop_cond: there is no metric {name!r}; there are {', '.join(metrics)}")
            return False
        return compare(metrics[name], target)

    def is_curr_model_better(self, curr_model: FLModel) -> bool:
        """Whether this is the best one so far by the metric of `stop_cond`; True without one."""
        if self.stop_condition is None:
            return True
        name, _, compare = self.stop_condition
        value, best = (curr_model.metrics or {}).get(name), self.best_target_metric_value
        if value is None:
            return False
        if best is not None and (not compare(value, best) or (self.patience and value == best)):
            self.num_fl_rounds_without_improvement += 1
            return False
        self.best_target_metric_value, self.num_fl_rounds_without_improvement = value, 0
        return True

    def _first_model(self) -> FLModel:
        first = self.load_model()
        if self.model is None or self._engine.committed:
            return first
        return self.model if isinstance(self.model, FLModel) else FLModel(ParamsType.FULL, dict(self.model))

    def _choose_mean(self, results: list[FLModel]) -> FLModel:
        if self.aggregator is None:
            return self._mean(results)
        self.aggregator.reset_stats()
        for result in results:
            self.aggregator.accept_model(result)
        return self.aggregator.aggregate_model()

    def _mean(self, results: list[FLModel]) -> FLModel:
        """As `aggregate_fn`, with this controller's own weights and exclusions."""
        if not (self.exclude_vars or self.aggregation_weights):
            return self.aggregate_fn(results)
        mean = WeightedAggregationHelper(self.exclude_vars)
        for number, result in enumerate(results):
            name = str(result.meta.get("client_name", number))
            factor = self.aggregation_weights.get(name, 1.0)
            mean.add(result.params or {}, factor * step_weight(result.meta), name, result.current_round)
        metrics = mean_metrics(results, self.aggregation_weights)
        found = FLModel(read_kind(results), mean.get_result(), metrics=metrics)
        if found.params_type is ParamsType.FULL:  # what is left out stays as it was
            found.params = self.load_global_weights() | found.params
        return found
