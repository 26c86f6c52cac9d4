# SPDX-License-Identifier: Apache-2.0
"""The series files of all jobs: written in the background, a batch at a time; followed from any offset."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from flprov._base import Tasks
from flprov.server.records import RoundRecord
from flprov.server.series.file import FILE, Addition, Batch, SeriesFile
from flprov.wire import SeriesEnd, SeriesJob, pb, read_series

logger = logging.getLogger(__name__)

CHUNK = 256 << 10
_PAUSE = 0.05  # seconds after a write; rounds may be quicker than a thread is worth
_LAST = 200  # bytes; more than the last line has
MOST_WAITING = 2_000  # additions of one job that wait for the disk; more of its workflow's are dropped


@dataclass
class _Waiting:
    """What waits for the disk, and who waits for that."""

    additions: list[Addition] = field(default_factory=list)
    written: asyncio.Event = field(default_factory=asyncio.Event)


class SeriesBook:
    """Writes in a thread, one batch of all that has come meanwhile; never in the way of a job.

    Args:
        folder: of all jobs.
        head: what the first line of a job's file says.
    """

    def __init__(self, folder: Path, head: Callable[[str], SeriesJob]) -> None:
        self._folder = folder
        self._head = head
        self._files: dict[str, SeriesFile] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._tasks = Tasks("series")
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._grew: dict[str, asyncio.Event] = {}
        self._ended: set[str] = set()
        self._under_way = ""  # the job whose additions are being written
        self._trouble = ""
        self.listeners: list[Callable[[str], None]] = []  # told the job's id when its file has grown

    def path(self, job_id: str) -> Path:
        """The job's file; there is none before its first number."""
        return self._folder / job_id / FILE

    # ---- what comes ----------------------------------------------------------------------

    async def take(
        self, job_id: str, site: str, source: str, first: int, points: list[pb.Point], now: float
    ) -> int:
        """A site's points, written when this returns; the number that is wanted next of them."""
        batch = Batch(site=site, points=points, source=source, first=first, now=now)
        await self._put(job_id, batch).written.wait()
        return first + len(points)

    def tell(self, job_id: str, points: list[pb.Point], now: float) -> None:
        """Points of the job's workflow."""
        waiting = self._waiting.get(job_id)
        if waiting is None or len(waiting.additions) < MOST_WAITING:
            self._put(job_id, Batch(site="", points=points, now=now))

    def note_round(self, record: RoundRecord) -> None:
        """The metrics of a round that is over; the same again changes nothing."""
        self._put(record.job_id, record)

    def end(self, job_id: str, state: str) -> None:
        """Nothing more comes; whoever follows has seen all."""
        if job_id not in self._ended:
            self._ended.add(job_id)
            self._put(job_id, SeriesEnd(state=state))

    def rest(self, job_id: str, state: str) -> None:
        """A job that ended in an earlier life of this server, which may have had no time to say so."""
        last = _tail(self.path(job_id))
        self._ended.add(job_id)
        if last and not any(isinstance(line, SeriesEnd) for line in read_series(last)):
            self._put(job_id, SeriesEnd(state=state))

    def forget(self, job_id: str) -> None:
        """The job is deleted, and its folder about to be."""
        waiting = self._waiting.pop(job_id, None)
        if waiting is not None:
            waiting.written.set()  # as far as it ever will be
        self._files.pop(job_id, None)
        self._wake(job_id)

    # ---- to disk -------------------------------------------------------------------------

    def _put(self, job_id: str, addition: Addition) -> _Waiting:
        waiting = self._waiting.setdefault(job_id, _Waiting())
        waiting.additions.append(addition)
        if self._writer is None or self._writer.done():
            self._writer = self._tasks.spawn(self._write_all())
        return waiting

    async def _write_all(self) -> None:
        while self._waiting:
            job_id = next(iter(self._waiting))
            waiting = self._waiting.pop(job_id)
            self._under_way = job_id
            try:
                await asyncio.to_thread(self._write, job_id, waiting.additions)
                self._trouble = ""
            except OSError as error:
                self._files.pop(job_id, None)  # read again what there is
                self._complain(f"{error.strerror or error}")
            except Exception:  # the outermost of its task: a fault of ours loses this batch and no other
                self._files.pop(job_id, None)
                logger.exception("job %s: numbers that it told are lost", job_id)
            self._under_way = ""
            waiting.written.set()
            self._wake(job_id)
            if not self._waiting:  # what comes meanwhile goes in one write
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PAUSE):
                        await self._closing.wait()

    def _write(self, job_id: str, additions: list[Addition]) -> None:
        file = self._files.get(job_id)
        if file is None:
            file = self._files[job_id] = SeriesFile(self.path(job_id), lambda: self._head(job_id))
        file.add(additions)
        if isinstance(additions[-1], SeriesEnd):
            self._files.pop(job_id, None)

    def _complain(self, reason: str) -> None:
        if reason != self._trouble:
            logger.warning("numbers that jobs tell are lost: %s", reason)
        self._trouble = reason

    # ---- to read -------------------------------------------------------------------------

    def _wake(self, job_id: str) -> None:
        event = self._grew.pop(job_id, None)
        if event is not None:
            event.set()
        for listener in self.listeners:
            listener(job_id)

    async def follow(self, job_id: str, offset: int, *, live: bool) -> AsyncIterator[tuple[int, bytes]]:
        """Whole lines from `offset` on, each part with its offset; until the job's end when `live`."""
        while True:
            grew = self._grew.setdefault(job_id, asyncio.Event())
            ended = job_id in self._ended and job_id not in (*self._waiting, self._under_way)
            while True:
                at, data = await asyncio.to_thread(_read_lines, self.path(job_id), offset)
                if not data:
                    break
                yield at, data
                offset = at + len(data)
            if ended or not live:
                return
            await grew.wait()

    async def close(self) -> None:
        """Write what waits."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._tasks.close()


def _read_lines(path: Path, offset: int) -> tuple[int, bytes]:
    """Whole lines from `offset` on, or from the next beginning of one; empty when there are none."""
    try:
        with path.open("rb") as file:
            if offset:
                file.seek(offset - 1)
                offset += 0 if file.read(1) == b"\n" else len(file.readline())
            data = file.read(CHUNK)
    except (OSError, ValueError, OverflowError):  # no file, or no place that a file has
        return offset, b""
    return offset, data[: data.rfind(b"\n") + 1]


def _tail(path: Path) -> bytes:
    """The end of the file, with its last line; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST))
            return file.read()
    except OSError:
        return b""
