# SPDX-License-Identifier: Apache-2.0
"""NPTrainer: the executor of FLARE's hello-numpy examples, which adds a number to the one weight."""

from __future__ import annotations

import threading
import time

from flprov.flare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from flprov.flare.apis.executor import Executor
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable, make_reply
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.np.constants import NPConstants


class NPTrainer(Executor):
    """Answers "train" with the weight plus `delta`, and "submit_model" with what it sent last."""

    def __init__(
        self,
        delta: float = 1,
        sleep_time: float = 0,
        train_task_name: str = AppConstants.TASK_TRAIN,
        submit_model_task_name: str = AppConstants.TASK_SUBMIT_MODEL,
    ) -> None:
        super().__init__()
        self._delta = delta
        self._seconds = sleep_time
        self._train = train_task_name
        self._submit = submit_model_task_name
        self._sent: Shareable | None = None

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """See `Executor`."""
        if task_name == self._submit:
            return self._sent or make_reply(ReturnCode.EXECUTION_RESULT_ERROR)
        if task_name != self._train:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        end = time.monotonic() + self._seconds
        while (left := end - time.monotonic()) > 0:
            if abort_signal.triggered:
                return make_reply(ReturnCode.TASK_ABORTED)
            threading.Event().wait(min(left, 0.5))
        weights = from_shareable(shareable).data
        if NPConstants.NUMPY_KEY not in weights:
            self.log_error(fl_ctx, f"the model has no {NPConstants.NUMPY_KEY!r}")
            return make_reply(ReturnCode.BAD_TASK_DATA)
        new = {NPConstants.NUMPY_KEY: weights[NPConstants.NUMPY_KEY] + self._delta}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1}
        self._sent = DXO(DataKind.WEIGHTS, data=new, meta=meta).to_shareable()
        return self._sent
