# SPDX-License-Identifier: Apache-2.0
"""Aggregator: makes one result of many."""

from __future__ import annotations

from abc import ABC, abstractmethod

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable


class Aggregator(FLComponent, ABC):
    """A controller gives it results one by one."""

    def reset(self, fl_ctx: FLContext) -> None:
        """Forget everything: a new round."""

    @abstractmethod
    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        """Take one result; False when it is not wanted."""

    @abstractmethod
    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        """What all of them make together."""
