# SPDX-License-Identifier: Apache-2.0
"""A store that forgets: the simulator's, and the tests'."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from flprov._base import Clock, SystemClock
from flprov.errors import LocalError
from flprov.store.chain import GENESIS
from flprov.store.entries import Entry, Head, SealedRow, decode_row, encode_commit, logged, seal_rows
from flprov.store.heads import Heads
from flprov.store.lines import seal_line
from flprov.store.records import Change, LogRow, Row, RowFilter


class MemoryStore:
    """Same promises as the store on disk, as long as the process lives."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._records: dict[str, dict[str, str]] = {}
        self._log: list[SealedRow] = []
        self._heads = Heads("the store")
        self._closed = False

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,  # noqa: ARG002
        before: Sequence[Row] = (),
    ) -> int:
        """See `Store.commit`."""
        if self._closed:
            raise LocalError("the store is closed")
        index = self._apply(encode_commit(changes, logged(row, before), self._clock.now()))
        if index:
            for loop in self._heads.loops:
                loop.call_soon_threadsafe(self._heads.tell, loop, index)
        await asyncio.sleep(0)  # others run while a commit is under way, here as on a disk
        return index

    async def write(self, changes: Sequence[Change], *, urgent: bool = False) -> None:
        """See `Store.write`."""
        await self.commit(changes, None, urgent=urgent)

    def _apply(self, entry: Entry) -> int:
        for kind, id_, value in entry.changes:
            records = self._records.setdefault(kind, {})
            if value is None:
                records.pop(id_, None)
            else:
                records[id_] = value
        self._log += seal_rows(entry, self._log[-1].head if self._log else Head(index=0, digest=GENESIS))
        return len(self._log) if entry.rows else 0

    def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """See `Store.load`."""
        return {id_: json.loads(value) for id_, value in sorted(self._records.get(kind, {}).items())}

    def get(self, kind: str, id: str) -> dict[str, Any] | None:  # noqa: A002
        """See `Store.get`."""
        value = self._records.get(kind, {}).get(id)
        return None if value is None else dict(json.loads(value))

    def rows(self, start: int = 1, limit: int = 1000) -> list[LogRow]:
        """See `Store.rows`."""
        first = max(start, 1) - 1
        return [decode_row(sealed) for sealed in self._log[first : first + max(limit, 0)]]

    async def find(
        self, wanted: RowFilter, *, start: int = 1, limit: int = 1000, newest: bool = False
    ) -> list[LogRow]:
        """See `Store.find`."""
        await asyncio.sleep(0)
        found = [row for row in self.rows(start, len(self._log)) if wanted.matches(row)]
        return found[max(len(found) - max(limit, 0), 0) :] if newest else found[: max(limit, 0)]

    async def lines(self, start: int = 1, limit: int = 1000) -> list[bytes]:
        """See `Store.lines`."""
        await asyncio.sleep(0)
        first = max(start, 1) - 1
        return [seal_line(sealed) for sealed in self._log[first : first + max(limit, 0)]]

    @property
    def head(self) -> int:
        """See `Store.head`."""
        return len(self._log)

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """See `Store.listen`."""
        return self._heads.listen(listener)

    async def wait_beyond(self, index: int) -> int:
        """See `Store.wait_beyond`."""
        return await self._heads.wait_beyond(index, lambda: self.head)

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._heads.close()
