# SPDX-License-Identifier: Apache-2.0
"""Blocking calls that may never return: a resolver, a dead network share, a driver."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def run_aside(work: Callable[[], T]) -> T:
    """What `work()` returns or raises, from a thread of its own that nobody waits for.

    `asyncio.to_thread` would hold up the end of the loop, and of the process, until `work` returns.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    outcome.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only left alone
    threading.Thread(target=run, name="aside", daemon=True).start()
    return await asyncio.wrap_future(outcome)
