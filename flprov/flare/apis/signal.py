# SPDX-License-Identifier: Apache-2.0
"""Signal: how running code learns that it should stop."""

from __future__ import annotations

import time
from collections.abc import Callable


class Signal:
    """Triggered by hand, by its parent, or by what `source` says when it is asked."""

    def __init__(self, parent: Signal | None = None, *, source: Callable[[], bool] | None = None) -> None:
        self._parent = parent
        self._source = source
        self._set = False
        self._value: object = None
        self._time: float | None = None

    def trigger(self, value: object) -> None:
        """Set it, with a value that says why."""
        self._set, self._value, self._time = True, value, time.time()

    def reset(self, value: object = None) -> None:
        """Unset what `trigger` set; a parent or a source is not changed by that."""
        self._set, self._value, self._time = False, value, None

    @property
    def triggered(self) -> bool:
        """Whether to stop."""
        if self._set:
            return True
        if self._source is not None and self._source():
            self.trigger(True)  # noqa: FBT003 - FLARE's value for an abort
            return True
        return self._parent is not None and self._parent.triggered

    @property
    def value(self) -> object:
        """What it was triggered with."""
        return self._value

    @property
    def trigger_time(self) -> float | None:
        """When, in seconds since 1970."""
        return self._time
