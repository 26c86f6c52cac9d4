# SPDX-License-Identifier: Apache-2.0
"""Cyclic: the model goes from site to site, each training what the one before has made of it."""

from __future__ import annotations

from typing import Any

from flprov.errors import JobFailed
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils
from flprov.flare.app_common.workflows.base_fedavg import BaseFedAvg


class Cyclic(BaseFedAvg):
    """`workflow: {type: cyclic}`, as something to write subclasses of."""

    def __init__(self, *args: Any, num_clients: int | None = 2, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, num_clients=num_clients, **kwargs)

    def run(self) -> None:  # type: ignore[override]  # see ModelController
        """One round for each cycle through the sampled sites."""
        model = self.load_model()
        model.start_round, model.total_rounds = self.start_round, self.num_rounds
        for number in self.rounds_left():
            self.current_round = model.current_round = number
            for client in self.sample_clients(self.num_clients):
                found = self.send_model_and_wait(targets=[client], data=model)
                if not found:
                    raise JobFailed(f"{client} has broken the cycle of round {self.current_round}")
                model = FLModelUtils.update_model(model, found[0])
            self.save_model(model)
