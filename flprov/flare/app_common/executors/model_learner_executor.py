# SPDX-License-Identifier: Apache-2.0
"""ModelLearnerExecutor: hands tasks to a ModelLearner, which `args.components` in job.yml names."""

from __future__ import annotations

from flprov.errors import ConfigError, JobFailed
from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.executor import Executor
from flprov.flare.apis.fl_constant import FLContextKey, ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable, make_reply
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.fl_model import FLModel
from flprov.flare.app_common.abstract.model_learner import ModelLearner
from flprov.flare.app_common.app_constant import AppConstants
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils


class ModelLearnerExecutor(Executor):
    """The learner is initialised before its first task and finalised at END_RUN."""

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
        self.learner: ModelLearner | None = None
        self._ready = False

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """See `FLComponent.handle_event`."""
        if event_type == EventType.START_RUN:
            found = fl_ctx.get_engine().get_component(self.learner_id)
            if not isinstance(found, ModelLearner):
                raise ConfigError(f"args.components has no ModelLearner {self.learner_id!r}")
            self.learner = found
        elif event_type == EventType.ABORT_TASK and self.learner is not None:
            self.learner.abort()
        elif event_type == EventType.END_RUN and self._ready and self.learner is not None:
            self.learner.finalize()

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """See `Executor.execute`."""
        learner = self.learner
        if learner is None:
            return make_reply(ReturnCode.ERROR)
        _set_up(learner, shareable, fl_ctx, abort_signal)
        if not self._ready:
            learner.initialize()
            self._ready = True
        if task_name == self.train_task:
            return _to_reply(learner.train(FLModelUtils.from_shareable(shareable)), learner)
        if task_name == self.validate_task:
            return _to_reply(learner.validate(FLModelUtils.from_shareable(shareable)), learner)
        if task_name == self.submit_model_task:
            name = shareable.get_header(AppConstants.SUBMIT_MODEL_NAME, "")
            return _to_reply(learner.get_model(str(name)), learner)
        return make_reply(ReturnCode.TASK_UNKNOWN)


def _set_up(learner: ModelLearner, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> None:
    learner.shareable, learner.fl_ctx, learner.abort_signal = shareable, fl_ctx, abort_signal
    learner.engine = fl_ctx.get_engine()
    learner.workspace = learner.engine.get_workspace()
    learner.site_name = fl_ctx.get_identity_name()
    learner.job_id = str(fl_ctx.get_job_id())
    learner.app_root = str(fl_ctx.get_prop(FLContextKey.APP_ROOT))
    learner.current_round = shareable.get_header(AppConstants.CURRENT_ROUND, 0)
    learner.total_rounds = shareable.get_header(AppConstants.NUM_ROUNDS, 0)


def _to_reply(result: str | FLModel, learner: ModelLearner) -> Shareable:
    if isinstance(result, str):
        return make_reply(result)
    if not isinstance(result, FLModel):
        raise JobFailed(f"{learner.name} returned a {type(result).__name__}, not an FLModel")
    return FLModelUtils.to_shareable(result)
