# SPDX-License-Identifier: Apache-2.0
"""A ModelController as people write them for NVIDIA FLARE 2.x: nothing in here knows of flprov."""

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.math_utils import parse_compare_criteria
from nvflare.app_common.workflows.base_fedavg import BaseFedAvg


class EarlyStopping(BaseFedAvg):
    def __init__(self, *args, stop_cond=None, patience: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self.stop_cond = stop_cond
        self.patience = patience
        self.stop_condition = parse_compare_criteria(stop_cond) if stop_cond else None
        self.best_model: FLModel = None
        self.waited = 0
        self.seen = []

    def run(self) -> None:
        self.info("Start FedAvg.")
        model = self.load_model()
        model.start_round = self.start_round
        model.total_rounds = self.num_rounds
        for self.current_round in range(  # noqa: B020 - as FLARE's examples have it
            self.start_round, self.start_round + self.num_rounds
        ):
            self.info(f"Round {self.current_round} started.")
            model.current_round = self.current_round
            clients = self.sample_clients(self.num_clients)
            self.seen.append(clients)
            results = self.send_model_and_wait(targets=clients, data=model)
            aggregate_results = self.aggregate(results, aggregate_fn=self.aggregate_fn)
            model = self.update_model(model, aggregate_results)
            self.info(f"Round {self.current_round} global metrics: {model.metrics}")
            self.select_best_model(model)
            self.save_model(self.best_model)
            if self.should_stop(model.metrics):
                self.info(f"Stopping at round={self.current_round}.")
                break
        self.info("Finished FedAvg.")

    def should_stop(self, metrics):
        key, target, op_fn = self.stop_condition
        return op_fn(metrics[key], target) or (self.patience and self.waited >= self.patience)

    def select_best_model(self, curr_model: FLModel):
        key, _, op_fn = self.stop_condition
        if self.best_model is None or op_fn(curr_model.metrics[key], self.best_model.metrics[key]):
            self.best_model = FLModel(params=dict(curr_model.params), metrics=dict(curr_model.metrics))
            self.waited = 0
        else:
            self.waited += 1
