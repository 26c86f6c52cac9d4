# SPDX-License-Identifier: Apache-2.0
"""The logs of jobs, as segments of which the newest are kept: written from sites' streams, followed live.

Telemetry: a log is not synced and not in the durable log; a site sends again from where the file ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from flprov.workers import LogSegments, log_segments, log_size, log_start, read_log

CHUNK = 256 << 10
MOST_BYTES = 64 << 20  # per site and job, the newest; a site caps its own logs far below
_FARTHEST = 1 << 48  # an offset behind which no log goes
_LOCKS = 64


@dataclass(frozen=True, kw_only=True)
class LogPart:
    """Some bytes of one party's log."""

    party: str  # a site's name, or "server" for the workflow's
    offset: int
    data: bytes


class LogBook:
    """The logs of one server's jobs, one file per job and party."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._grew: dict[str, asyncio.Event] = {}
        self._ended: set[str] = set()
        self._writing = tuple(threading.Lock() for _ in range(_LOCKS))  # one of them for each file

    def path(self, job_id: str, party: str) -> Path:
        """The file of one party's log. The workflow's own process writes `server`'s."""
        if party == "server":
            return self._folder / job_id / "workflow" / "log"
        return self._folder / job_id / "logs" / f"{party}.log"

    def size(self, job_id: str, party: str) -> int:
        """The offset after the last byte that is there."""
        return log_size(self.path(job_id, party))

    def start(self, job_id: str, party: str) -> int:
        """The offset of the first byte that is still there."""
        return log_start(self.path(job_id, party))

    def append(self, job_id: str, party: str, offset: int, data: bytes, *, first: int = 0) -> int:
        """Write a site's bytes at their place; returns the offset that is wanted next.

        Bytes that are there already are passed over. Nothing is written behind a gap, so that the site
        sends again; unless it says that it has nothing before `first` any more. When the log outgrows its
        limit, its oldest part is dropped. For any thread: `tell` wakes who follows, and is the loop's.

        Raises:
            ProtocolError: an offset that no log has.
        """
        if max(offset + len(data), first) > _FARTHEST:
            return self.size(job_id, party)
        path = self.path(job_id, party)
        with self._writing[hash(path) % _LOCKS]:  # an older stream of the same site may be at it still
            return _append(path, offset, data, first)

    def tell(self, job_id: str, *, ended: bool = False) -> None:
        """Wake those who follow this job's logs; `ended` when nothing more will come."""
        if ended:
            self._ended.add(job_id)
        event = self._grew.pop(job_id, None)
        if event is not None:
            event.set()

    async def follow(self, job_id: str, offsets: dict[str, int], *, live: bool) -> AsyncIterator[LogPart]:
        """The logs of the parties in `offsets`, each from its offset; until the job ends when `live`."""
        at = dict(offsets)
        while True:
            grew = self._grew.setdefault(job_id, asyncio.Event())
            ended = job_id in self._ended
            for party in sorted(at):
                async for part in self._read(job_id, party, at[party]):
                    at[party] = part.offset + len(part.data)
                    yield part
            if ended or not live:
                return
            await grew.wait()

    async def _read(self, job_id: str, party: str, offset: int) -> AsyncIterator[LogPart]:
        path = self.path(job_id, party)
        while offset < _FARTHEST:
            at, data = await asyncio.to_thread(read_log, path, offset, CHUNK)
            if not data:
                return
            yield LogPart(party=party, offset=at, data=data)
            offset = at + len(data)

    async def tail(self, job_id: str, party: str, lines: int) -> int:
        """The offset at which the last `lines` lines begin."""
        return await asyncio.to_thread(_tail, self.path(job_id, party), lines)


def _tail(path: Path, lines: int) -> int:
    begin = log_size(path)
    last = begin - 1  # a line break there ends the last line, and begins none
    for start, name in reversed(log_segments(path)):
        try:
            data = Path(name).read_bytes()
        except FileNotFoundError:  # the oldest one has gone just now
            return begin
        place = min(len(data), last - start)
        while (place := data.rfind(b"\n", 0, max(0, place))) >= 0:
            lines -= 1
            if lines <= 0:
                return start + place + 1
        begin = start
    return begin


def _append(path: Path, offset: int, data: bytes, first: int) -> int:
    wanted = max(log_size(path), first)
    fresh = data[max(0, wanted - offset) :] if offset <= wanted else b""
    if not fresh:
        return wanted
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(LogSegments(path, limit=MOST_BYTES)) as log:
        log.skip_to(wanted)
        return wanted + log.append(fresh)
