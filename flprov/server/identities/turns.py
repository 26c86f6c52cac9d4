# SPDX-License-Identifier: Apache-2.0
"""One change at a time, each to its end, whether or not whoever wanted it still waits.

A commit to the store goes on when the call that wanted it is gone. Were the memory not told of it then,
the next call would decide by what is no longer true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Turns:
    """Runs pieces of work one after the other, as tasks that no caller can cancel."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()  # asyncio itself keeps only weak references

    async def take(self, work: Coroutine[object, object, T]) -> T:
        """What `work` returns or raises."""
        task: asyncio.Task[T] = asyncio.ensure_future(self._in_turn(work))
        self._running.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _in_turn(self, work: Coroutine[object, object, T]) -> T:
        async with self._lock:
            return await work

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits gets it
