# SPDX-License-Identifier: Apache-2.0
"""LearnerExecutor: hands tasks to a Learner, which `args.components` in job.yml names."""

from __future__ import annotations

from flprov.errors import ConfigError
from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.executor import Executor
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable, make_reply
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.learner_spec import Learner
from flprov.flare.app_common.app_constant import AppConstants


class LearnerExecutor(Executor):
    """The learner is initialised at START_RUN and finalised at END_RUN."""

    def __init__(
        self,
        learner_id: str,
        train_task: str = AppConstants.TASK_TRAIN,
        submit_model_task: str = AppConstants.TASK_SUBMIT_MODEL,
        validate_task: str = AppConstants.TASK_VALIDATION,
    ) -> None:
        super().__init__()
        self.learner_id = learner_id
        self.train_task = train_task
        self.submit_model_task = submit_model_task
        self.validate_task = validate_task
        self.learner: Learner | None = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """See `FLComponent.handle_event`."""
        if event_type == EventType.START_RUN:
            found = fl_ctx.get_engine().get_component(self.learner_id)
            if not isinstance(found, Learner):
                raise ConfigError(f"args.components has no Learner {self.learner_id!r}")
            self.learner = found
            found.initialize(fl_ctx.get_engine().get_all_components(), fl_ctx)
        elif event_type == EventType.ABORT_TASK and self.learner is not None:
            self.learner.abort(fl_ctx)
        elif event_type == EventType.END_RUN and self.learner is not None:
            self.learner.finalize(fl_ctx)

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """See `Executor.execute`."""
        if self.learner is None:
            return make_reply(ReturnCode.ERROR)
        if task_name == self.train_task:
            return self.learner.train(shareable, fl_ctx, abort_signal)
        if task_name == self.validate_task:
            return self.learner.validate(shareable, fl_ctx, abort_signal)
        if task_name == self.submit_model_task:
            name = shareable.get_header(AppConstants.SUBMIT_MODEL_NAME, "")
            return self.learner.get_model_for_validation(str(name), fl_ctx)
        return make_reply(ReturnCode.TASK_UNKNOWN)
