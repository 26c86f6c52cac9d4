# SPDX-License-Identifier: Apache-2.0
"""One job's series file as its only writer knows it: what is in it, and what of a batch goes into it.

Written without a sync: a power cut may cost the last second, a kill of the server costs nothing that was
acknowledged. Half a line, left by a full disk, is cut off before the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flprov.server.foreign import foreign_line
from flprov.server.records import RoundRecord
from flprov.wire import (
    ROUND,
    SeriesEnd,
    SeriesFull,
    SeriesJob,
    SeriesLine,
    SeriesPoint,
    SeriesSent,
    encode_series,
    pb,
    read_series,
)

FILE = "series.jsonl"
MOST_PER_SITE = 50_000  # points told live; about 7 MB
MOST_PER_JOB = 500_000  # of all sites and the workflow, which have equal parts of it
MOST_NAMES = 200  # of different metrics, per site
_LONGEST_NAME = 100  # characters
_LONGEST_TASK = 60
_LARGEST = 1 << 53  # above this, JSON's numbers have gaps


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Points of one site, or of the workflow, whose name is empty."""

    site: str
    points: Sequence[pb.Point]
    source: str = ""  # who numbers them; empty: they are not numbered
    first: int = 0
    now: float = 0.0  # no point is later


Addition = Batch | RoundRecord | SeriesEnd


@dataclass
class _Part:
    """What one site has in the file."""

    count: int = 0
    names: set[str] = field(default_factory=set)
    source: str = ""
    next: int = 0
    full: bool = False


class SeriesFile:
    """Used by one thread at a time; reads the file once, then appends."""

    def __init__(self, path: Path, head: Callable[[], SeriesJob]) -> None:
        self._path = path
        self._head = head
        self._parts: dict[str, _Part] = {}
        self._round = -1  # the last round whose metrics are in the file
        self._sites = 0
        self._size = 0  # of whole lines; 0: there is no file
        self._ended = False
        self._read()

    def _read(self) -> None:
        if not self._path.is_file():
            return
        with self._path.open("rb") as file:
            for text in file:
                if not text.endswith(b"\n"):
                    break
                self._size += len(text)
                for line in read_series(text):
                    self._know(line)

    def _know(self, line: SeriesLine) -> None:
        match line:
            case SeriesJob():
                self._sites = len(line.sites)
            case SeriesPoint(origin=origin) if origin == ROUND:
                self._round = max(self._round, line.round)
            case SeriesPoint():
                part = self._part(line.site)
                part.count += 1
                part.names.add(line.name)
            case SeriesSent():
                part = self._part(line.site)
                part.source, part.next = line.source, line.next
            case SeriesFull():
                self._part(line.site).full = True
            case SeriesEnd():
                self._ended = True

    def _part(self, site: str) -> _Part:
        return self._parts.setdefault(site, _Part())

    def next(self, site: str, source: str) -> int:
        """The number of the point that is wanted next of this source."""
        part = self._part(site)
        return part.next if part.source == source else 0

    def add(self, additions: Iterable[Addition]) -> None:
        """Append them, in one write. Raises OSError; what was refused stays unwritten."""
        lines: list[SeriesLine] = []
        for addition in additions:
            if not self._ended:
                fresh = self._lines(addition)
                for line in fresh:
                    self._know(line)
                lines += fresh
        if not lines:
            return
        if not self._size:
            if all(isinstance(line, SeriesEnd) for line in lines):
                return  # it has told nothing at all
            head = self._head()
            self._know(head)
            lines.insert(0, head)
        data = b"".join(encode_series(line) for line in lines)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.truncate(self._size)
            file.write(data)
        self._size += len(data)

    def _lines(self, addition: Addition) -> list[SeriesLine]:
        if isinstance(addition, SeriesEnd):
            return [addition]
        if isinstance(addition, RoundRecord):
            return list(self._round_lines(addition))
        return self._batch_lines(addition)

    def _round_lines(self, record: RoundRecord) -> Iterable[SeriesLine]:
        if record.round <= self._round:
            return
        at = record.finished_at.timestamp() if record.finished_at else 0.0
        told = [("", record.metrics), *((line.site, line.metrics) for line in record.contributors)]
        for site, metrics in told:
            for name, value in metrics.items():
                if math.isfinite(value):
                    yield SeriesPoint(
                        site=site,
                        name=foreign_line(name, _LONGEST_NAME),
                        value=value,
                        step=record.round + 1,
                        round=record.round,
                        at=at,
                        origin=ROUND,
                    )

    def _batch_lines(self, batch: Batch) -> list[SeriesLine]:
        """Its points, and how far its source is; nothing of a batch of which nothing is kept."""
        lines = list(self._point_lines(batch))
        if batch.source and lines:
            lines.append(
                SeriesSent(site=batch.site, source=batch.source, next=batch.first + len(batch.points))
            )
        return lines

    def _point_lines(self, batch: Batch) -> Iterable[SeriesLine]:
        part, fresh = self._part(batch.site), list(batch.points)
        if batch.source:
            known = self.next(batch.site, batch.source)
            fresh = fresh[max(0, known - batch.first) :]
        left = self._limit() - part.count
        names = set(part.names)
        for point in fresh[: max(0, left)]:
            if (line := _read_point(point, batch)) is None:
                continue
            names.add(line.name)
            if len(names) <= MOST_NAMES or line.name in part.names:
                yield line
        if len(fresh) > left and not part.full:
            yield SeriesFull(site=batch.site, points=self._limit())

    def _limit(self) -> int:
        sites = self._sites or len(self._head().sites)
        return min(MOST_PER_SITE, MOST_PER_JOB // (sites + 1))


def _read_point(point: pb.Point, batch: Batch) -> SeriesPoint | None:
    """A peer's point, if it is a number that has a name."""
    name = foreign_line(point.name, _LONGEST_NAME).strip()
    if not name or not math.isfinite(point.value):
        return None
    at = point.at if 0 < point.at <= batch.now else batch.now  # also when it is not a number
    return SeriesPoint(
        site=batch.site,
        name=name,
        value=point.value,
        step=min(point.step, _LARGEST),
        round=point.round,
        task=foreign_line(point.task, _LONGEST_TASK),
        at=round(at, 3),
    )
