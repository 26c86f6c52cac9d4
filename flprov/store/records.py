# SPDX-License-Identifier: Apache-2.0
"""What the store takes and gives: rows of the log, changes of records, and the Store itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

Document = Mapping[str, object]


@dataclass(frozen=True)
class Row:
    """What happened, in one line of the log. Audit and events are two views of these."""

    who: str  # an identity's URI, or "server" / "agent" for what we did of our own accord
    what: str  # the verb: "job.submit", "site.connect"
    object: str  # what it was done to: a job id, a site's name
    outcome: str = "ok"
    reason: str = ""
    data: Document = field(default_factory=dict)


@dataclass(frozen=True)
class LogRow:
    """A row as it stands in the log, chained to the one before it."""

    index: int  # 1, 2, 3, ... without gaps
    at: datetime
    row: Row
    previous: str  # `digest` of row index - 1; 64 zeros before the first
    digest: str  # BLAKE3-256 (hex) of `previous` and the canonical JSON of index, at and row


@dataclass(frozen=True)
class Put:
    """Make the record (`kind`, `id`) be `value`, whatever it was before."""

    kind: str
    id: str
    value: Document


@dataclass(frozen=True)
class Delete:
    """Make the record (`kind`, `id`) be absent, whether it was there or not."""

    kind: str
    id: str


Change = Put | Delete


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """Which rows of the log somebody wants to see; what is empty or None goes for all."""

    families: tuple[str, ...] = ()  # what stands before the dot of a verb: "job", "site"
    what: str = ""  # a verb; one that ends with a dot stands for all that begin so: "job."
    who: str = ""  # an identity's URI, or the name at its end
    object: str = ""
    outcome: str = ""
    since: datetime | None = None  # at or after
    until: datetime | None = None  # before

    def matches(self, found: LogRow) -> bool:
        """Whether this row is wanted. What every store's `find` goes by."""
        row = found.row
        return (
            self.takes(row.what)
            and self.who in ("", row.who, row.who.rpartition("/")[2])
            and self.object in ("", row.object)
            and self.outcome in ("", row.outcome)
            and (self.since is None or found.at >= self.since)
            and (self.until is None or found.at < self.until)
        )

    def takes(self, what: str) -> bool:
        """Whether rows of this verb can be wanted."""
        if self.families and what.partition(".")[0] not in self.families:
            return False
        return what.startswith(self.what) if self.what.endswith(".") else self.what in ("", what)


class Store(Protocol):
    """Records and their log. `flprov.testing.store_conformance` says what every store must do."""

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,
        before: Sequence[Row] = (),
    ) -> int:
        """Make `changes` and `row` durable, together or not at all.

        Concurrent callers share one sync of the disk. Once called, the commit goes on even when the
        caller is cancelled while it waits.

        Args:
            changes: applied in order.
            row: what to log with them; its time is the call's.
            urgent: abort, revoke, lock and drain: may use the space held back for them when the
                disk is full.
            before: rows that come before `row`, of what was not worth a commit of its own.

        Returns:
            The row's index; 0 when there is none.

        Raises:
            LocalError: it could not be written and none of it was: the disk is full or broken, a
                value has no JSON form, or the store is closed. Later commits may work again. (When
                the disk fails inside the sync, a power cut right then may leave it written whole.)
        """
        ...

    async def write(self, changes: Sequence[Change], *, urgent: bool = False) -> None:
        """`commit` without a row and without a sync: for what a power cut may take with it.

        It outlives this process, also a killed one. A power cut takes back what was written since the last
        `commit`, the newest first; what was committed stands, and brings what was written before it along.

        Raises:
            LocalError: as `commit`.
        """
        ...

    def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every record of a kind by its id: a fresh copy of what is committed."""
        ...

    def get(self, kind: str, id: str) -> dict[str, Any] | None:  # noqa: A002 - the record's own word
        """One record: a fresh copy of what is committed."""
        ...

    def rows(self, start: int = 1, limit: int = 1000) -> list[LogRow]:
        """Up to `limit` rows of the log, from index `start` on."""
        ...

    async def find(
        self, wanted: RowFilter, *, start: int = 1, limit: int = 1000, newest: bool = False
    ) -> list[LogRow]:
        """Up to `limit` rows that are wanted, in order, from index `start` on. Blocks nobody.

        Args:
            wanted: which rows.
            start: the index of the first that may be among them.
            limit: how many at most.
            newest: the last ones there are, and not the first.
        """
        ...

    async def lines(self, start: int = 1, limit: int = 1000) -> list[bytes]:
        """Up to `limit` rows from index `start` on as they are kept, a line of JSON each, for `verify_lines`.

        What was changed behind our back comes out as it is now, however unreadable.
        """
        ...

    @property
    def head(self) -> int:
        """The index of the last committed row; 0 when the log is empty."""
        ...

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """Call `listener(head)` in this event loop after each commit that has a row, or once for several.

        Returns:
            What to call to hear no more.
        """
        ...

    async def wait_beyond(self, index: int) -> int:
        """The index of the last row, as soon as it is larger than `index`.

        Raises:
            LocalError: the store was closed.
        """
        ...

    async def close(self) -> None:
        """Write what is under way, then refuse further commits. A second call does nothing."""
        ...
