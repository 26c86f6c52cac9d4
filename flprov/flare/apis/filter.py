# SPDX-License-Identifier: Apache-2.0
"""Filter: changes what goes out or comes in. `filters` in job.yml takes a subclass as `module:Class`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from flprov.flare.apis.fl_component import FLComponent
from flprov.flare.apis.fl_context import FLContext
from flprov.flare.apis.shareable import Shareable
from flprov.messages import Site, Task, Update

__all__ = ["ContentBlockedException", "FLContext", "Filter", "Shareable"]


class ContentBlockedException(Exception):
    """What a filter raises to keep everything back; the task fails with it."""


class Filter(FLComponent, ABC):
    """Its constructor gets the other keys of its row in job.yml."""

    @abstractmethod
    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        """The Shareable that goes on instead of this one."""

    def __call__(self, value: Task | Update, site: Site) -> Task | Update:
        """Filter one of our tasks or updates."""
        from flprov.flare.bridge.filtering import apply_filter

        return apply_filter(self, value, site)

    def set_prop(self, key: str, value: Any) -> None:  # noqa: ANN401 - what the job notes
        """Note something on this filter."""
        setattr(self, key, value)

    def get_prop(self, key: str, default: Any = None) -> Any:  # noqa: ANN401
        """What was noted."""
        return getattr(self, key, default)
