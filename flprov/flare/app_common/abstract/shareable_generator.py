# SPDX-License-Identifier: Apache-2.0
"""ShareableGenerator: from a model to what is sent, and from what was aggregated to a model."""

from __future__ import annotations

from abc import ABC, abstractmethod

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.flare.app_common.abstract.learnable import Learnable


class ShareableGenerator(FLComponent, ABC):
    """Two functions."""

    @abstractmethod
    def learnable_to_shareable(self, model: Learnable, fl_ctx: FLContext) -> Shareable:
        """What to send."""

    @abstractmethod
    def shareable_to_learnable(self, shareable: Shareable, fl_ctx: FLContext) -> Learnable:
        """The new model."""
