# SPDX-License-Identifier: Apache-2.0
"""Refused calls as rows of the log: one per identity, method and minute, and one that counts the rest."""

from __future__ import annotations

import logging
from dataclasses import replace

from flprov._base import Clock, Tasks
from flprov.errors import FlprovError
from flprov.pki import Identity
from flprov.rpc.methods import BY_PATH
from flprov.server.log.coalescing import Coalescer
from flprov.server.log.refusals import Refusals
from flprov.store import Row, Store
from flprov.wire.documents import RefusedDocument

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"


class Denials:
    """Takes refusals from the transport: writes them, and keeps the latest for `status`."""

    def __init__(self, store: Store, clock: Clock, sites: Refusals | None = None) -> None:
        self._store = store
        self._refusals = sites or Refusals(clock)
        self._tasks = Tasks("denials")
        self._coalescer = Coalescer(store, clock, burst=1, rest=_more, overflow=_others)

    def note(self, caller: Identity | None, method: str, error: Exception) -> None:
        """Write a row for this refusal, unless this minute has one already: then it is counted."""
        self._refusals.note(caller, method, error)
        who = caller.uri if caller else UNKNOWN
        row = Row(who=who, what="call", object=method[:200], outcome="denied", reason=str(error)[:500])
        known = method if method in BY_PATH else "a method that does not exist"
        written = self._coalescer.pass_on(row, (who, known))
        if written is not None:
            self._tasks.spawn(self._write(written))

    def refused(self) -> tuple[RefusedDocument, ...]:
        """Who was refused lately, the newest first."""
        return self._refusals.documents()

    async def _write(self, row: Row) -> None:
        try:
            await self._store.commit([], row)
        except FlprovError as error:
            logger.warning("a denial could not be recorded: %s", error)

    async def close(self) -> None:
        """Write what was counted, and wait for what is being written."""
        await self._coalescer.close()
        await self._tasks.settle()


def _more(row: Row, count: int) -> Row:
    return replace(row, reason=f"and {count:,} more within a minute; the last: {row.reason}"[:500])


def _others(row: Row) -> Row:
    return replace(row, who=UNKNOWN, object="several", reason="of more callers than are counted apart")
