# SPDX-License-Identifier: Apache-2.0
"""Tells everybody who waits that something has changed; they look for themselves whether it matters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Bell:
    """Belongs to one event loop. Any number may wait; ringing never blocks."""

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener()` at each ring, from now on."""
        self._listeners.append(listener)

    def ring(self) -> None:
        """Something has changed."""
        rung, self._next = self._next, asyncio.Event()
        rung.set()
        for listener in self._listeners:
            listener()

    @property
    def next(self) -> asyncio.Event:
        """Is set by the next ring: take it before you look, wait for it afterwards."""
        return self._next
