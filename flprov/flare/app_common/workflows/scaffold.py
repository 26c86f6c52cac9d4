# SPDX-License-Identifier: Apache-2.0
"""Scaffold: FLARE's SCAFFOLD, for trainers that use PTScaffoldHelper (Karimireddy et al., 2020, option II).

The control variates travel in the meta of models. `workflow: {type: scaffold}` has them beside the model,
where site policies can filter the weights; a trainer for that calls `fl.correct_gradients`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flprov.errors import JobFailed
from flprov.flare.app_common.abstract.fl_model import FLModel
from flprov.flare.app_common.aggregators.weighted_aggregation_helper import (
    WeightedAggregationHelper,
    step_weight,
)
from flprov.flare.app_common.app_constant import AlgorithmConstants
from flprov.flare.app_common.workflows.base_fedavg import BaseFedAvg

_GLOBAL, _DIFF = AlgorithmConstants.SCAFFOLD_CTRL_GLOBAL, AlgorithmConstants.SCAFFOLD_CTRL_DIFF


class Scaffold(BaseFedAvg):
    """Sends `meta["scaffold_c_global"]`, takes `meta["scaffold_c_diff"]`."""

    def __init__(self, *args: Any, enable_tensor_disk_offload: bool = False, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self.enable_tensor_disk_offload = enable_tensor_disk_offload  # updates are mapped files here
        self._global_ctrl_weights: dict[str, Any] = {}

    def run(self) -> None:  # type: ignore[override]  # see ModelController
        """Rounds of averaging weights and of adding the mean change of the control variates."""
        model = self.load_model()
        model.start_round, model.total_rounds = self.start_round, self.num_rounds
        if not self._global_ctrl_weights:
            self._global_ctrl_weights = {
                name: np.zeros_like(value) for name, value in (model.params or {}).items()
            }
        for number in self.rounds_left():
            self.current_round = model.current_round = number
            model.meta[_GLOBAL] = self._global_ctrl_weights
            clients = self.sample_clients(self.num_clients)
            results = self.send_model_and_wait(targets=clients, data=model)
            found = self.aggregate(results, scaffold_aggregate_fn)
            changes = found.meta.pop(_DIFF)
            model = self.update_model(model, found)
            for name, change in changes.items():
                old = self._global_ctrl_weights[name]
                self._global_ctrl_weights[name] = np.asarray(old + change).astype(old.dtype)
            self.save_model(model)


def scaffold_aggregate_fn(results: list[FLModel]) -> FLModel:
    """The weighted means of weights, metrics and changes of the control variates.

    Raises:
        JobFailed: a site has sent no such changes.
    """
    found, controls = BaseFedAvg.aggregate_fn(results), WeightedAggregationHelper()
    for result in results:
        site = str(result.meta.get("client_name"))
        if _DIFF not in result.meta:
            raise JobFailed(
                f"{site} sent no control variates",
                hint=f'the trainer puts PTScaffoldHelper.get_delta_controls() into meta["{_DIFF}"]',
            )
        controls.add(result.meta[_DIFF], step_weight(result.meta), site, result.current_round)
    found.meta[_DIFF] = controls.get_result()
    return found
