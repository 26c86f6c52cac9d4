# SPDX-License-Identifier: Apache-2.0
"""Learner: training and validation on Shareables; a LearnerExecutor calls it."""

from __future__ import annotations

from typing import Any

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_constant import ReturnCode
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable, make_reply
from flprov.flare.apis.signal import Signal

__all__ = ["FLContext", "Learner", "ReturnCode", "Shareable", "Signal", "make_reply"]


class Learner(FLComponent):
    """What is not overridden answers TASK_UNSUPPORTED."""

    def initialize(self, parts: dict[str, Any], fl_ctx: FLContext) -> None:
        """Called once, before anything else."""

    def train(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:  # noqa: ARG002
        """Train from this model on."""
        return make_reply(ReturnCode.TASK_UNSUPPORTED)

    def validate(self, data: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:  # noqa: ARG002
        """Measure this model."""
        return make_reply(ReturnCode.TASK_UNSUPPORTED)

    def get_model_for_validation(self, model_name: str, fl_ctx: FLContext) -> Shareable:  # noqa: ARG002
        """The learner's own model."""
        return make_reply(ReturnCode.TASK_UNSUPPORTED)

    def abort(self, fl_ctx: FLContext) -> None:
        """Called from another thread: end the task that is under way."""

    def finalize(self, fl_ctx: FLContext) -> None:
        """Called once, after everything else."""
