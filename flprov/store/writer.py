# SPDX-License-Identifier: Apache-2.0
"""The one thread that writes: whatever is queued becomes one transaction (group commit).

A quiet commit waits for nobody: the batch is what is there when the thread looks. Under load the
commits that arrive during one sync share the next one.

A batch of nothing but `Store.write` is not synced: in WAL mode a transaction without a sync
(`synchronous=NORMAL`) is in the kernel's hands when COMMIT returns, so that it outlives this process.
After a power cut the database is as some transaction left it, be it an earlier one, and never torn; a
later sync brings all that was written before it to disk as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from flprov.errors import FlprovError, LocalError
from flprov.store.entries import Entry, Head, seal_rows
from flprov.store.failures import SPACE_HINT, describe, may_lack_space
from flprov.store.growth import Growth
from flprov.store.heads import Heads, Loop
from flprov.store.reserve import Reserve

Outcome = int | FlprovError

_INSERT = "INSERT INTO log (ix, at, line, previous, digest) VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """One commit and who waits for it."""

    entry: Entry
    urgent: bool
    synced: bool
    future: asyncio.Future[int]
    loop: Loop


class Writer:
    """Owns the writing connection.

    Attributes:
        head: what has been committed.
        syncs: how many transactions were synced.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, head: Head, heads: Heads) -> None:
        self.head = head
        self.syncs = 0
        self._syncing = True  # what the connection was told last
        self._heads = heads
        self._connection = connection
        self._path = path
        self._reserve = Reserve(path.with_name(f"{path.stem}.reserve"))
        self._reserve.hold()
        self._growth = Growth(path)
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"store {path}", daemon=True)
        self._thread.start()

    def submit(self, entry: Entry, *, urgent: bool, synced: bool = True) -> asyncio.Future[int]:
        """Queue a commit; the future is done once it is durable, or has failed.

        Not `synced`: once it is written.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        waiting = _Waiting(entry=entry, urgent=urgent, synced=synced, future=future, loop=loop)
        self._queue.put(waiting)
        return waiting.future

    async def close(self) -> None:
        """Write what is queued, then close the connection."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        going_on = True
        while going_on:
            batch, going_on = self._take()
            before = self.head
            outcomes: list[Outcome]
            try:
                outcomes = self._write(batch) if batch else []
            except Exception as error:  # the thread's outermost loop: nobody may wait for ever
                outcomes = [self._fail(error) for _ in batch]
            self._tell(batch, outcomes, self._heads.loops if self.head is not before else ())
            if self._reserve.held:  # else the little that is left is for commits
                self._growth.follow()
        self._connection.close()

    def _take(self) -> tuple[list[_Waiting], bool]:
        """Everything that is queued, at least one thing; False when the end was among it."""
        found = [self._queue.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._queue.get_nowait())
        return [waiting for waiting in found if waiting is not None], None not in found

    def _write(self, batch: Sequence[_Waiting]) -> list[Outcome]:
        if not self._reserve.hold():
            return [self._write_urgent(waiting) for waiting in batch]
        try:
            return self._transact(batch)
        except sqlite3.Error as error:
            if len(batch) == 1:
                return [self._retry_urgent(batch[0], error)]
        # The batch failed as a whole; alone, each that can be written is.
        return [self._write([waiting])[0] for waiting in batch]

    def _write_urgent(self, waiting: _Waiting) -> Outcome:
        """The disk has no room for the reserve: what is left of it is for urgent commits."""
        if not waiting.urgent:
            return LocalError(f"{self._path} cannot be written: the disk is full", hint=SPACE_HINT)
        try:
            outcome = self._transact([waiting])[0]
        except sqlite3.Error as error:
            return self._fail(error)
        self._save_room()
        return outcome

    def _save_room(self) -> None:
        """Bring the write-ahead log into the database and cut it off: what is left goes a long way so."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _retry_urgent(self, waiting: _Waiting, error: sqlite3.Error) -> Outcome:
        if not (waiting.urgent and may_lack_space(error)):
            return self._fail(error)
        self._reserve.release()
        return self._write_urgent(waiting)

    def _transact(self, batch: Sequence[_Waiting]) -> list[Outcome]:
        """One transaction; the futures of the batch hear of it only after COMMIT has returned.

        Raises:
            sqlite3.Error: none of it was written.
        """
        synced = any(waiting.synced for waiting in batch)
        try:
            self._sync(synced)
            self._connection.execute("BEGIN IMMEDIATE")
            head = self.head
            outcomes: list[Outcome] = []
            for waiting in batch:
                apply = self._apply if len(batch) == 1 else self._apply_apart
                outcome, head = apply(waiting.entry, head)
                outcomes.append(outcome)
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            raise
        self.head = head
        self.syncs += synced
        return outcomes

    def _sync(self, synced: bool) -> None:
        """Whether the next transaction is to be on disk when COMMIT returns."""
        if synced is not self._syncing:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            self._syncing = synced

    def _apply_apart(self, entry: Entry, head: Head) -> tuple[Outcome, Head]:
        """Apply one commit so that, when it fails, the others of its batch do not."""
        self._connection.execute("SAVEPOINT entry")
        try:
            found = self._apply(entry, head)
        except sqlite3.Error as error:
            if not self._connection.in_transaction:  # SQLite has undone the whole batch
                raise
            self._connection.execute("ROLLBACK TO entry")
            self._connection.execute("RELEASE entry")
            return self._fail(error), head
        self._connection.execute("RELEASE entry")
        return found

    def _apply(self, entry: Entry, head: Head) -> tuple[Outcome, Head]:
        for kind, id_, value in entry.changes:
            if value is None:
                self._connection.execute("DELETE FROM records WHERE kind = ? AND id = ?", (kind, id_))
            else:
                self._connection.execute("REPLACE INTO records VALUES (?, ?, ?)", (kind, id_, value))
        for sealed in seal_rows(entry, head):
            columns = (sealed.index, sealed.at, sealed.row, sealed.previous, sealed.digest)
            self._connection.execute(_INSERT, columns)
            head = sealed.head
        return (head.index if entry.rows else 0), head

    def _tell(
        self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome], listening: Collection[Loop]
    ) -> None:
        """One call into each event loop, however many wait there."""
        pairs = list(zip(batch, outcomes, strict=True))
        head = self.head.index
        for loop in {*(waiting.loop for waiting in batch), *listening}:
            here = [pair for pair in pairs if pair[0].loop is loop]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._hear, loop, here, head if loop in listening else 0)

    def _hear(self, loop: Loop, pairs: Sequence[tuple[_Waiting, Outcome]], head: int) -> None:
        _settle(pairs)
        if head:
            self._heads.tell(loop, head)

    def _fail(self, error: Exception) -> FlprovError:
        failure: FlprovError = LocalError(f"{self._path} cannot be written: {error}")
        if isinstance(error, sqlite3.Error):
            failure = describe(error, self._path)
        failure.__cause__ = error
        return failure


def _settle(pairs: Sequence[tuple[_Waiting, Outcome]]) -> None:
    for waiting, outcome in pairs:
        if waiting.future.done():  # its caller was cancelled; the commit stands
            continue
        if isinstance(outcome, FlprovError):
            waiting.future.set_exception(outcome)
        else:
            waiting.future.set_result(outcome)
