# SPDX-License-Identifier: Apache-2.0
"""What has happened since the server started, counted: commits and their rows, and bytes on the wire.

Counted where it passes by, at the store and at the table of handlers, so that no part of the server knows
of it. A restart begins at zero again, as Prometheus expects of counters.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flprov._base import Clock, from_iso
from flprov.pki import Kind
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.store import Change, LogRow, Put, Row, RowFilter, Store
from flprov.wire import pb

_COMMITS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # seconds
_ROUNDS = (1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)


class Histogram:
    """How often something took how long."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """It took so long."""
        self._counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound and how many were below, as Prometheus counts them."""
        names = [f"{bound:g}" for bound in self._bounds] + ["+Inf"]
        return list(zip(names, itertools.accumulate(self._counts), strict=True))


@dataclass(kw_only=True)
class Tally:
    """The counts."""

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)  # by verb and outcome
    failed_commits: int = 0
    received: Counter[str] = field(default_factory=Counter)  # bytes, by kind of the caller
    sent: Counter[str] = field(default_factory=Counter)
    commit_seconds: Histogram = field(default_factory=lambda: Histogram(_COMMITS))
    round_seconds: Histogram = field(default_factory=lambda: Histogram(_ROUNDS))

    def note(self, changes: Sequence[Change], row: Row | None) -> None:
        """This was committed."""
        if row is not None:
            self.rows[row.what, row.outcome if row.outcome in ("ok", "denied") else "other"] += 1
            if row.what == "round.close":
                for change in changes:
                    self._note_round(change, row.object)

    def _note_round(self, change: Change, key: str) -> None:
        if isinstance(change, Put) and (change.kind, change.id) == ("round", key):
            started, ended = change.value.get("started_at"), change.value.get("finished_at")
            if isinstance(started, str) and isinstance(ended, str):
                self.round_seconds.add((from_iso(ended) - from_iso(started)).total_seconds())


class CountedStore:
    """A store whose commits are counted and timed. See `Store`."""

    def __init__(self, store: Store, tally: Tally, clock: Clock) -> None:
        self._store = store
        self._tally = tally
        self._clock = clock

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,
        before: Sequence[Row] = (),
    ) -> int:
        """See `Store.commit`."""
        began = self._clock.monotonic()
        try:
            index = await self._store.commit(changes, row, urgent=urgent, before=before)
        except Exception:
            self._tally.failed_commits += 1
            raise
        self._tally.commit_seconds.add(self._clock.monotonic() - began)
        for earlier in before:
            self._tally.note((), earlier)
        self._tally.note(changes, row)
        return index

    async def write(self, changes: Sequence[Change], *, urgent: bool = False) -> None:
        """See `Store.write`."""
        await self._store.write(changes, urgent=urgent)

    def load(self, kind: str) -> dict[str, dict[str, Any]]:
        """See `Store.load`."""
        return self._store.load(kind)

    def get(self, kind: str, id: str) -> dict[str, Any] | None:  # noqa: A002
        """See `Store.get`."""
        return self._store.get(kind, id)

    def rows(self, start: int = 1, limit: int = 1000) -> list[LogRow]:
        """See `Store.rows`."""
        return self._store.rows(start, limit)

    async def find(
        self, wanted: RowFilter, *, start: int = 1, limit: int = 1000, newest: bool = False
    ) -> list[LogRow]:
        """See `Store.find`."""
        return await self._store.find(wanted, start=start, limit=limit, newest=newest)

    async def lines(self, start: int = 1, limit: int = 1000) -> list[bytes]:
        """See `Store.lines`."""
        return await self._store.lines(start, limit)

    @property
    def head(self) -> int:
        """See `Store.head`."""
        return self._store.head

    def listen(self, listener: Callable[[int], None]) -> Callable[[], None]:
        """See `Store.listen`."""
        return self._store.listen(listener)

    async def wait_beyond(self, index: int) -> int:
        """See `Store.wait_beyond`."""
        return await self._store.wait_beyond(index)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._store.close()


def metered(table: Mapping[m.Method, Handler], tally: Tally) -> dict[m.Method, Handler]:
    """The same handlers, with the bytes of blobs, logs and results counted on their way."""
    return {method: _metered(method, handler, tally) for method, handler in table.items()}


def _metered(method: m.Method, handler: Any, tally: Tally) -> Handler:  # noqa: ANN401 - by shape, below
    if method.reply in (bytes, pb.LogMessage):
        return _count_replies(handler, tally)
    if method.brings_bytes or method.request is pb.LogMessage:
        return _count_requests(handler, tally)
    return handler  # type: ignore[no-any-return]


def _count_replies(handler: Any, tally: Tally) -> Handler:  # noqa: ANN401
    async def counted(call: Call, request: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        async for reply in handler(call, request):
            tally.sent[_kind(call)] += _size(reply)
            yield reply

    return counted


def _count_requests(handler: Any, tally: Tally) -> Handler:  # noqa: ANN401
    async def counted(call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async def passing() -> AsyncIterator[Any]:
            async for request in requests:
                tally.received[_kind(call)] += _size(request)
                yield request

        async for reply in handler(call, passing()):
            yield reply

    return counted


def _size(message: Any) -> int:  # noqa: ANN401
    return len(message) if isinstance(message, bytes) else message.ByteSize()


def _kind(call: Call) -> str:
    return "site" if call.caller.kind is Kind.SITE else "person"
