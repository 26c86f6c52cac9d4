# SPDX-License-Identifier: Apache-2.0
"""Refused calls as rows of the log: one per identity, method and minute, so that a flood stays small."""

from __future__ import annotations

import logging

from flprov._base import Clock, Tasks
from flprov.errors import FlprovError
from flprov.pki import Identity
from flprov.rpc.methods import BY_PATH
from flprov.store import Row, Store

logger = logging.getLogger(__name__)


class Denials:
    """Takes refusals from the transport and writes them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._minute = ""
        self._seen: set[tuple[str, str]] = set()
        self._tasks = Tasks("denials")

    def note(self, caller: Identity | None, method: str, error: Exception) -> None:
        """Write a row for this refusal, unless this minute has one already."""
        minute = f"{self._clock.now():%Y-%m-%dT%H:%M}"
        if minute != self._minute:
            self._minute = minute
            self._seen.clear()
        who = caller.uri if caller else "unknown"
        what = method if method in BY_PATH else "a method that does not exist"
        key = (who, what)
        if key in self._seen:
            return
        self._seen.add(key)
        row = Row(who=who, what="call", object=method[:200], outcome="denied", reason=str(error)[:500])
        self._tasks.spawn(self._write(row))

    async def _write(self, row: Row) -> None:
        try:
            await self._store.commit([], row)
        except FlprovError as error:
            logger.warning("a denial could not be recorded: %s", error)

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._tasks.settle()
