# SPDX-License-Identifier: Apache-2.0
"""A job's log on its way to the server: as its site allows, from where the server says that it ends.

Only whole lines leave, so that whatever is to be masked is seen as a whole. Every byte keeps its offset,
whatever was masked or dropped before it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from flprov._base import Clock
from flprov.agent.bulk import Bulk
from flprov.agent.redaction import Redactor, hide
from flprov.errors import FlprovError
from flprov.policy import LogRules
from flprov.workers import log_size, read_log

logger = logging.getLogger(__name__)

LONGEST_LINE = 64 << 10  # bytes that are held back for the rest of their line
NOT_SHARED = b"[flprov: this site's policy does not share the logs of jobs]\n"
_LONG = b"[flprov: a line of more than 64 KiB, or its rest, cannot be redacted and is not sent] "
_BLOCK = 256 << 10
_MOST_A_SECOND = 8 << 20  # bytes; of a job that prints faster the rest is dropped
_LAST_WORDS = 2.0  # seconds for what is left when the job is over


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Some lines as they leave."""

    offset: int
    data: bytes
    first: int  # before this there is nothing here any more


class LogSender:
    """Sends one log. `grew` may be called as often as one likes."""

    def __init__(
        self,
        bulk: Bulk,
        job_id: str,
        path: Path,
        *,
        rules: LogRules | None = None,
        redactor: Redactor | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bulk = bulk
        self._job_id = job_id
        self._path = path
        self._rules = rules or LogRules()
        self._redactor = redactor or Redactor(self._rules.redact)
        self._clock = clock
        self._offset = 0  # the server has what lies before
        self._first = 0  # and we have nothing before this
        self._sending = asyncio.Lock()
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def grew(self) -> None:
        """The log has new bytes: send them in the background."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name=f"log {self._job_id}")

    async def flush(self, seconds: float = _LAST_WORDS) -> None:
        """Send what there is, also a line without an end; gives up, without an error, after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._drain(last=True)
        except TimeoutError:
            logger.info("job %s: the end of its log was not sent: the line is too slow", self._job_id)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._redactor.close()

    async def _drain(self, *, last: bool = False) -> None:
        force = last
        async with self._sending:
            while self._again or force:
                self._again = force = False
                try:
                    await self._send_rest(last=last)
                except FlprovError as error:
                    logger.debug("job %s: its log waits: %s", self._job_id, error)
                    return  # the next growth, or the flush at the end, sends from where the server is

    async def _send_rest(self, *, last: bool) -> None:
        if not self._rules.share:
            await self._send(_Block(offset=0, data=NOT_SHARED[self._offset :], first=0), start=self._offset)
            return
        while (block := await self._next(last=last)) is not None:
            before = self._offset
            await self._send(block, start=block.offset)
            if self._offset == before:
                return  # the server takes no more
            if self._clock is not None and len(block.data) >= _BLOCK // 2:
                await self._clock.sleep(len(block.data) / _MOST_A_SECOND)

    async def _send(self, block: _Block, *, start: int) -> None:
        """Piece by piece, until all is there or the server wants something else."""
        data = memoryview(block.data)
        at = start
        while data:
            piece = data[: self._bulk.log_piece]
            self._offset = await self._bulk.send_log(self._job_id, at, bytes(piece), first=block.first)
            if self._offset != at + len(piece):
                return
            at, data = self._offset, data[len(piece) :]

    async def _next(self, *, last: bool) -> _Block | None:
        """The next lines, masked; None when there is nothing that may leave yet."""
        at, data, hidden = await asyncio.to_thread(self._read, last)
        if not data:
            return None
        if self._rules.redact:
            beginning = data[:hidden]
            data = hide(beginning, _LONG) + await self._redactor.mask(data[hidden:])
        skipped = max(0, self._offset - at)  # of the line that the server has a part of
        return _Block(offset=at + skipped, data=data[skipped:], first=self._first)

    def _read(self, last: bool) -> tuple[int, bytes, int]:
        """Where the next lines begin, their bytes, and how many of these are of a line seen in part."""
        begin = self._line_start()
        at, data = read_log(self._path, begin, _BLOCK)
        if at > self._offset:
            self._first = at
        whole_line = at == 0 or self._ends_line(at)
        end = data.rfind(b"\n") + 1
        if (not end and len(data) >= LONGEST_LINE) or (last and at + len(data) >= log_size(self._path)):
            end = len(data)
        data = data[:end]
        if at + len(data) <= self._offset:
            return at, b"", 0
        torn = 0
        if not whole_line or (b"\n" not in data and len(data) >= LONGEST_LINE):
            torn = data.find(b"\n") + 1 or len(data)
        return at, data, torn

    def _line_start(self) -> int:
        """Where the line begins that the next byte is in, if that is near."""
        back = max(0, self._offset - LONGEST_LINE)
        if not self._rules.redact or back == self._offset:
            return self._offset
        at, before = read_log(self._path, back, self._offset - back)
        if at != back or len(before) < self._offset - back:
            return self._offset  # two segments: rare, and then the line is hidden
        return back + (before.rfind(b"\n") + 1) if b"\n" in before or back == 0 else self._offset

    def _ends_line(self, offset: int) -> bool:
        at, data = read_log(self._path, offset - 1, 1)
        return at == offset - 1 and data == b"\n"
