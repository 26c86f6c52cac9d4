# SPDX-License-Identifier: Apache-2.0
"""Work in the background that is neither lost nor silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

logger = logging.getLogger(__name__)


class Tasks:
    """Holds background tasks (asyncio keeps only weak references) and logs what they raise."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Run `work` in the background."""
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s: background work failed", self._name, exc_info=task.exception())

    async def settle(self) -> None:
        """Wait for all that is under way."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def close(self) -> None:
        """Cancel all, except the task that calls this, and wait for their end."""
        others = self._running - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
