# SPDX-License-Identifier: Apache-2.0
"""Commits that are not left halfway: what is on disk is acted on, even when the caller hangs up meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flprov.store import Change, Row, Store


async def commit_through(
    store: Store, changes: Sequence[Change], row: Row | None, *, urgent: bool = False
) -> None:
    """`store.commit`, which returns only when it is over; what follows it in the caller then happens as well.

    A store finishes a commit even when whoever waits for it is cancelled. A lock that is on disk and not
    in force until the next start would be worse than either. The cancellation comes at the next `await`.

    Raises:
        LocalError: it could not be written, and nothing has changed.
    """
    task = asyncio.current_task()
    assert task is not None
    writing = asyncio.ensure_future(store.commit(changes, row, urgent=urgent))
    cancelled = False
    while not writing.done():
        try:
            await asyncio.wait([writing])
        except asyncio.CancelledError:
            task.uncancel()
            cancelled = True
    if cancelled:
        task.cancel()
    writing.result()
