# SPDX-License-Identifier: Apache-2.0
"""Blocking calls that may never return: a resolver, a dead network share, a driver."""

from __future__ import annotations

import _thread
import asyncio
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
    _thread.start_new_thread(run, ())  # not `threading`, which waits until the thread has begun
    return await asyncio.wrap_future(outcome)
