# SPDX-License-Identifier: Apache-2.0
"""A PyTorch trainer as people write them for NVIDIA FLARE 2.x: nothing in here knows of flprov."""

import os.path

import numpy as np
import torch
from hello_network import SimpleNetwork, points
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.security.logging import secure_format_exception
from torch import nn
from torch.optim import SGD


class HelloTrainer(Executor):
    def __init__(
        self,
        lr=0.01,
        epochs=5,
        train_task_name=AppConstants.TASK_TRAIN,
        validate_task_name=AppConstants.TASK_VALIDATION,
        exclude_vars=None,
    ):
        super().__init__()
        self._lr = lr
        self._epochs = epochs
        self._train_task_name = train_task_name
        self._validate_task_name = validate_task_name
        self._exclude_vars = exclude_vars
        self.model = None
        self.events = []

    def handle_event(self, event_type: str, fl_ctx: FLContext):
        self.events.append(event_type)
        if event_type == EventType.START_RUN:
            self._initialize_trainer(fl_ctx)
        elif event_type == EventType.END_RUN:
            with open(os.path.join(fl_ctx.get_prop(FLContextKey.APP_ROOT), "events.txt"), "w") as file:
                file.write("\n".join(self.events))

    def _initialize_trainer(self, fl_ctx):
        self.model = SimpleNetwork()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        self.loss = nn.CrossEntropyLoss()
        site = fl_ctx.get_prop(ReservedKey.IDENTITY_NAME)
        assert site == fl_ctx.get_identity_name()
        self._x, self._y = points(site)

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        try:
            if task_name == self._train_task_name:
                return self._train_task(shareable, fl_ctx, abort_signal)
            if task_name == self._validate_task_name:
                return self._validate_task(shareable, fl_ctx)
            return make_reply(ReturnCode.TASK_UNKNOWN)
        except Exception as e:
            self.log_exception(fl_ctx, f"Exception in simple trainer: {secure_format_exception(e)}.")
            return make_reply(ReturnCode.EXECUTION_EXCEPTION)

    def _load(self, shareable, fl_ctx):
        dxo = from_shareable(shareable)
        if dxo.data_kind != DataKind.WEIGHTS:
            self.log_error(fl_ctx, f"data_kind expected WEIGHTS but got {dxo.data_kind} instead.")
            raise ValueError("no weights")
        weights = {k: torch.as_tensor(v, device=self.device) for k, v in dxo.data.items()}
        self.model.load_state_dict(state_dict=weights)
        return dxo.data

    def _train_task(self, shareable, fl_ctx, abort_signal):
        start = {k: np.array(v) for k, v in self._load(shareable, fl_ctx).items()}
        current_round = shareable.get_header(AppConstants.CURRENT_ROUND)
        total_rounds = shareable.get_header(AppConstants.NUM_ROUNDS)
        self.log_info(fl_ctx, f"Current/Total Round: {current_round + 1}/{total_rounds}")
        optimizer = SGD(self.model.parameters(), lr=self._lr, momentum=0.9)
        self.model.train()
        steps = 0
        for epoch in range(self._epochs):
            for batch in range(0, len(self._x), 16):
                if abort_signal.triggered:
                    return make_reply(ReturnCode.TASK_ABORTED)
                x, y = self._x[batch : batch + 16], self._y[batch : batch + 16]
                optimizer.zero_grad()
                cost = self.loss(self.model(x.to(self.device)), y.to(self.device))
                cost.backward()
                optimizer.step()
                steps += 1
            self.log_info(fl_ctx, f"Epoch: {epoch}/{self._epochs}, Loss: {cost.item():.4f}")
        now = {k: v.cpu().numpy() for k, v in self.model.state_dict().items()}
        difference = {k: np.subtract(now[k], start[k], dtype=now[k].dtype) for k in now}
        outgoing = DXO(
            data_kind=DataKind.WEIGHT_DIFF,
            data=difference,
            meta={MetaKey.NUM_STEPS_CURRENT_ROUND: steps, MetaKey.INITIAL_METRICS: {"cost": cost.item()}},
        )
        return outgoing.to_shareable()

    def _validate_task(self, shareable, fl_ctx):
        self._load(shareable, fl_ctx)
        self.model.eval()
        with torch.no_grad():
            right = (self.model(self._x.to(self.device)).argmax(1).cpu() == self._y).float().mean().item()
        self.log_info(fl_ctx, f"Accuracy when validating on {fl_ctx.get_identity_name()}: {right}")
        return DXO(data_kind=DataKind.METRICS, data={"val_acc": right}).to_shareable()
