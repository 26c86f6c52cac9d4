# SPDX-License-Identifier: Apache-2.0
"""The store on disk: SQLite in WAL mode, one writer thread, reads on a connection of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from flprov._base import Clock
from flprov.errors import FlprovError, LocalError, StateDamaged
from flprov.store.chain import GENESIS, verify_chain
from flprov.store.entries import Head, SealedRow, decode_row, encode_commit, logged
from flprov.store.failures import RESTORE_HINT, store_errors
from flprov.store.finding import find_rows, read_lines
from flprov.store.heads import Heads
from flprov.store.records import Change, LogRow, Row, RowFilter, Store
from flprov.store.schema import connect, open_database
from flprov.store.writer import Writer

T = TypeVar("T")


def open_store(folder: Path, *, clock: Clock) -> Store:
    """The store in `folder`, made when there is none. The caller sees to it that it is alone there.

    Raises:
        StateDamaged: what is there is damaged, not ours, or written by a newer flprov.
        LocalError: the folder cannot be written.
    """
    return SQLiteStore(folder, clock=clock)


class SQLiteStore:
    """See `Store`. What was acknowledged survives SIGKILL and power loss."""

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        self._clock = clock
        self._path = folder / "store.db"
        self._closed = False
        self._heads = Heads(f"the store {self._path}")
        # A thread of its own: what is sought waits here, and never in the threads that all others share.
        self._finding = ThreadPoolExecutor(1, thread_name_prefix=f"find in {self._path}")
        with store_errors(self._path):
            connection = open_database(self._path)
            try:
                self._reader = self._open_reader()
                self._finder = self._open_reader()  # what takes long must not keep the others waiting
                self._writer = Writer(connection, self._path, self._read_head(), self._heads)
            except BaseException:
                connection.close()
                raise

    def _open_reader(self) -> sqlite3.Connection:
        reader = connect(self._path)
        reader.execute("PRAGMA query_only=ON")
        reader.text_factory = bytes.decode  # damaged text is a UnicodeDecodeError
        return reader

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,
        before: Sequence[Row] = (),
    ) -> int:
        """See `Store.commit`."""
        if self._closed:
            raise self._refusal()
        entry = encode_commit(changes, logged(row, before), self._clock.now())
        return await self._writer.submit(entry, urgent=urgent)

    async def write(self, changes: Sequence[Change], *, urgent: bool = False) -> None:
        """See `Store.write`."""
        if self._closed:
            raise self._refusal()
        entry = encode_commit(changes, (), self._clock.now())
        await self._writer.submit(entry, urgent=urgent, synced=False)

    @property
    def syncs(self) -> int:
        """How many transactions were synced since the store was opened: several commits may share one."""
        return self._writer.syncs

    def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """See `Store.load`."""
        found = self._select("SELECT id, value FROM records WHERE kind = ? ORDER BY id", (kind,))
        return {id_: self._parse(value) for id_, value in found}

    def get(self, kind: str, id: str) -> dict[str, Any] | None:  # noqa: A002
        """See `Store.get`."""
        found = self._select("SELECT value FROM records WHERE kind = ? AND id = ?", (kind, id))
        return self._parse(found[0][0]) if found else None

    def rows(self, start: int = 1, limit: int = 1000) -> list[LogRow]:
        """See `Store.rows`."""
        found = self._select(
            "SELECT ix, at, line, previous, digest FROM log WHERE ix >= ? ORDER BY ix LIMIT ?",
            (max(start, 1), max(limit, 0)),
        )
        return [self._decode(columns) for columns in found]

    async def find(
        self, wanted: RowFilter, *, start: int = 1, limit: int = 1000, newest: bool = False
    ) -> list[LogRow]:
        """See `Store.find`."""
        found = await self._seek(
            lambda finder: find_rows(finder, wanted, start=start, limit=limit, newest=newest)
        )
        return [self._decode(columns) for columns in found]

    async def lines(self, start: int = 1, limit: int = 1000) -> list[bytes]:
        """See `Store.lines`."""
        return await self._seek(lambda finder: read_lines(finder, start, limit))

    async def _seek(self, search: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        if self._closed:
            raise self._refusal()
        return await asyncio.get_running_loop().run_in_executor(self._finding, self._search, search)

    def _search(self, search: Callable[[sqlite3.Connection], list[T]]) -> list[T]:
        if self._closed:
            raise self._refusal()
        with self._reading():
            return search(self._finder)

    @property
    def head(self) -> int:
        """See `Store.head`."""
        return self._writer.head.index

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """See `Store.listen`."""
        return self._heads.listen(listener)

    async def wait_beyond(self, index: int) -> int:
        """See `Store.wait_beyond`."""
        return await self._heads.wait_beyond(index, lambda: self.head)

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._closed:
            self._closed = True
            self._heads.close()
            self._reader.close()
            await asyncio.to_thread(self._finding.shutdown)
            self._finder.close()
        await self._writer.close()

    def _read_head(self) -> Head:
        last = self._select("SELECT ix, at, line, previous, digest FROM log ORDER BY ix DESC LIMIT 1", ())
        if not last:
            return Head(index=0, digest=GENESIS)
        row = self._decode(last[0])
        if verify_chain([row]) is not None:
            raise self._damage(f"row {row.index}, the last of the log, does not match its digest")
        return Head(index=row.index, digest=row.digest)

    def _select(self, query: str, values: Sequence[object]) -> list[Any]:
        if self._closed:
            raise self._refusal()
        with self._reading():
            return self._reader.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with store_errors(self._path):
                yield
        except UnicodeDecodeError as error:
            raise self._damage("it holds text that is not Unicode") from error

    def _decode(self, columns: tuple[int, str, str, str, str]) -> LogRow:
        index, at, row, previous, digest = columns
        try:
            return decode_row(SealedRow(index=index, at=at, row=row, previous=previous, digest=digest))
        except (ValueError, TypeError) as error:
            raise self._damage(f"row {index} of the log cannot be read") from error

    def _parse(self, value: str) -> dict[str, Any]:
        try:
            return dict(json.loads(value))
        except (ValueError, TypeError) as error:
            raise self._damage("a record cannot be read") from error

    def _damage(self, what: str) -> StateDamaged:
        return StateDamaged(f"{self._path} is damaged: {what}", hint=RESTORE_HINT)

    def _refusal(self) -> FlprovError:
        return LocalError(f"the store {self._path} is closed")
