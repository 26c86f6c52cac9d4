# SPDX-License-Identifier: Apache-2.0
"""LearnablePersistor: where a controller's model comes from and goes to."""

from __future__ import annotations

from abc import ABC, abstractmethod

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.app_common.abstract.learnable import Learnable


class LearnablePersistor(FLComponent, ABC):
    """Here the runtime's own is enough: each commit is on the server's disk."""

    @abstractmethod
    def load(self, fl_ctx: FLContext) -> Learnable:
        """The model to go on with."""

    @abstractmethod
    def save(self, learnable: Learnable, fl_ctx: FLContext) -> None:
        """Keep a model."""
