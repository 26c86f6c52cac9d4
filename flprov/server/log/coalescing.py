# SPDX-License-Identifier: Apache-2.0
"""Rows that come in floods: the first few of a minute are written, the rest are counted in one more row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from flprov._base import Clock, Tasks
from flprov.errors import FlprovError
from flprov.store import Row, Store

logger = logging.getLogger(__name__)

_MINUTE = 60.0
_MOST_KEYS = 1000  # in one minute; whatever comes on top is counted together


@dataclass
class _Kind:
    """Rows of one key in this minute."""

    row: Row  # the newest
    written: int = 0
    counted: int = 0


class Coalescer:
    """One for each sort of rows. Belongs to one event loop."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        burst: int,
        rest: Callable[[Row, int], Row],
        overflow: Callable[[Row], Row],
    ) -> None:
        """Args:
        store: where the counts are written.
        clock: whose minutes they are.
        burst: so many rows of a key are written as they are.
        rest: the row that stands for so many more like this one.
        overflow: the row of nobody in particular, that this one is counted with when there are too many.
        """
        self._store = store
        self._clock = clock
        self._burst = burst
        self._rest = rest
        self._overflow = overflow
        self._minute = ""
        self._kinds: dict[Hashable, _Kind] = {}
        self._timer: asyncio.Task[None] | None = None  # runs once something was counted
        self._timers = Tasks("the end of a minute")
        self._writes = Tasks("counts of rows")

    def pass_on(self, row: Row, key: Hashable = None) -> Row | None:
        """The row if it is to be written; None if it was counted.

        Args:
            row: what happened.
            key: rows of the same key are alike; None: of the same who, what and object.
        """
        self._turn()
        kind = self._kind(row, (row.who, row.what, row.object) if key is None else key)
        if kind.written < self._burst:
            kind.written += 1
            return row
        kind.counted += 1
        if self._timer is None:
            self._timer = self._timers.spawn(self._end_minute())
        return None

    def _kind(self, row: Row, key: Hashable) -> _Kind:
        kind = self._kinds.pop(key, None)
        if kind is None and len(self._kinds) >= _MOST_KEYS:
            key, row = None, self._overflow(row)
            kind = self._kinds.pop(None, _Kind(row=row, written=self._burst))
        kind = kind or _Kind(row=row)
        kind.row = row
        self._kinds[key] = kind  # at the end: the counts are told in the order of their last rows
        return kind

    def _turn(self) -> None:
        """Begin a new minute, if one has begun."""
        minute = f"{self._clock.now():%Y-%m-%dT%H:%M}"
        if minute != self._minute:
            self._tell()
            self._minute = minute

    async def _end_minute(self) -> None:
        now = self._clock.now()
        await self._clock.sleep(_MINUTE - now.second - now.microsecond / 1e6)
        self._timer = None
        self._tell()

    def _tell(self) -> None:
        """Write the counts, in the background."""
        rows = [self._counted(kind) for kind in self._kinds.values() if kind.counted]
        self._kinds.clear()
        if rows:
            self._writes.spawn(self._write(rows))

    def _counted(self, kind: _Kind) -> Row:
        row = self._rest(kind.row, kind.counted)
        return replace(row, data={**row.data, "more": kind.counted})

    async def _write(self, rows: Sequence[Row]) -> None:
        outcomes = await asyncio.gather(
            *(self._store.commit([], row) for row in rows), return_exceptions=True
        )
        for row, outcome in zip(rows, outcomes, strict=True):
            if isinstance(outcome, FlprovError):
                logger.warning("a count could not be recorded (%s %s): %s", row.what, row.object, outcome)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def close(self) -> None:
        """Write the counts of this minute."""
        await self._timers.close()
        self._timer = None
        self._tell()
        await self._writes.settle()
