# SPDX-License-Identifier: Apache-2.0
"""Words between handlers and tests, whatever loop and thread each runs in."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future


def told() -> Future:
    """A word from a handler to the test, whatever loop and thread the handler runs in."""
    return Future()


async def heard(future: Future, seconds: float = 10.0):
    return await asyncio.wait_for(asyncio.wrap_future(future), seconds)


def tell(future: Future, word=None) -> None:
    if not future.done():
        future.set_result(word)


async def hang(future: Future):
    """Wait for ever; tell when cancelled."""
    try:
        await asyncio.Event().wait()
    finally:
        tell(future, "cancelled")


async def drained(replies) -> int:
    """Read to the end; how many there were."""
    return len([reply async for reply in replies])
