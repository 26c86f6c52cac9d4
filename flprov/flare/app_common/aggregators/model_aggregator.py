# SPDX-License-Identifier: Apache-2.0
"""ModelAggregator: makes one FLModel of many; for FedAvg and ScatterAndGather."""

from __future__ import annotations

from abc import abstractmethod

from flprov.flare.apis.event_type import EventType
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.aggregator import Aggregator
from flprov.flare.app_common.abstract.fl_model import FLModel
from flprov.flare.app_common.utils.fl_model_utils import FLModelUtils


class ModelAggregator(Aggregator):
    """Subclasses write the three methods on models."""

    fl_ctx: FLContext | None = None

    @abstractmethod
    def accept_model(self, model: FLModel) -> None:
        """Take one site's model."""

    @abstractmethod
    def aggregate_model(self) -> FLModel:
        """What all of them make together."""

    @abstractmethod
    def reset_stats(self) -> None:
        """Forget everything: a new round."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """See `FLComponent.handle_event`."""
        if event_type == EventType.START_RUN:
            self.fl_ctx = fl_ctx

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """See `Aggregator.accept`."""
        self.fl_ctx = fl_ctx
        self.accept_model(FLModelUtils.from_shareable(shareable, fl_ctx))
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """See `Aggregator.aggregate`."""
        self.fl_ctx = fl_ctx
        return FLModelUtils.to_shareable(self.aggregate_model())

    def reset(self, fl_ctx: FLContext) -> None:
        """See `Aggregator.reset`."""
        self.fl_ctx = fl_ctx
        self.reset_stats()

    def info(self, message: str) -> None:
        """Log what happens."""
        self.log_info(self.fl_ctx, message)

    def warning(self, message: str) -> None:
        """Log what may be wrong."""
        self.log_warning(self.fl_ctx, message)

    def error(self, message: str) -> None:
        """Log what went wrong."""
        self.log_error(self.fl_ctx, message)
