# SPDX-License-Identifier: Apache-2.0
"""ModelLearner: training and validation on FLModels; a ModelLearnerExecutor calls it."""

from __future__ import annotations

from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.app_common.abstract.fl_model import FLModel
from flprov.flare.app_common.utils.fl_component_wrapper import InContext

__all__ = ["FLModel", "ModelLearner"]


class ModelLearner(InContext):
    """What is not overridden answers TASK_UNSUPPORTED.

    Attributes:
        current_round: of the task that is under way.
    """

    current_round = 0

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
