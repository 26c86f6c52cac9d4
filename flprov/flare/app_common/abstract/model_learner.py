# SPDX-License-Identifier: Apache-2.0
"""ModelLearner: training and validation on FLModels; a ModelLearnerExecutor calls it."""

from __future__ import annotations

from typing import Any

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.fl_exception import TaskExecutionError
from flprov.flare.apis.shareable import Shareable
from flprov.flare.apis.signal import Signal
from flprov.flare.app_common.abstract.fl_model import FLModel

__all__ = ["FLModel", "ModelLearner"]


class ModelLearner(FLComponent):
    """What is not overridden answers TASK_UNSUPPORTED.

    Attributes:
        site_name, job_id, app_root: who and where this is.
        current_round, total_rounds: of the task that is under way.
    """

    fl_ctx: FLContext | None = None
    abort_signal: Signal | None = None
    shareable: Shareable | None = None
    engine: Any = None
    workspace: Any = None
    site_name = ""
    job_id = ""
    app_root = ""
    current_round = 0
    total_rounds = 0

    def initialize(self) -> None:
        """Called once, before anything else."""

    def train(self, model: FLModel) -> str | FLModel:  # noqa: ARG002
        """Train from this model on; a return code where that fails."""
        return ReturnCode.TASK_UNSUPPORTED

    def validate(self, model: FLModel) -> str | FLModel:  # noqa: ARG002
        """Measure this model."""
        return ReturnCode.TASK_UNSUPPORTED

    def get_model(self, model_name: str) -> str | FLModel:  # noqa: ARG002
        """The learner's own model."""
        return ReturnCode.TASK_UNSUPPORTED

    def abort(self) -> None:
        """Called from another thread: end the task that is under way."""

    def finalize(self) -> None:
        """Called once, after everything else."""

    def is_aborted(self) -> bool:
        """Whether the job is being stopped."""
        return self.abort_signal is not None and self.abort_signal.triggered

    def stop_task(self, reason: str) -> None:
        """Give the task up. Raises TaskExecutionError."""
        self.log_error(self.fl_ctx, f"task stopped: {reason}")
        raise TaskExecutionError(reason)

    def get_component(self, component_id: str) -> Any:  # noqa: ANN401 - of a class of the job's
        """A component of the run, or None."""
        return self.engine.get_component(component_id) if self.engine is not None else None

    def debug(self, msg: str) -> None:
        """Log for developers."""
        self.log_debug(self.fl_ctx, msg)

    def info(self, msg: str) -> None:
        """Log what happens."""
        self.log_info(self.fl_ctx, msg)

    def warning(self, msg: str) -> None:
        """Log what may be wrong."""
        self.log_warning(self.fl_ctx, msg)

    def error(self, msg: str) -> None:
        """Log what went wrong."""
        self.log_error(self.fl_ctx, msg)

    def exception(self, msg: str) -> None:
        """Log the exception that is being handled."""
        self.log_exception(self.fl_ctx, msg)
