# SPDX-License-Identifier: Apache-2.0
"""The logs of jobs, as files that grow: written from the sites' streams, read by people, followed live.

Telemetry: a log is not synced and not in the durable log; a site sends again from where the file ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from flprov.errors import ProtocolError

CHUNK = 256 << 10
MOST_BYTES = 256 << 20  # per site and job; a site caps its own logs far below


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

    def path(self, job_id: str, party: str) -> Path:
        """The file of one party's log. The workflow's own process writes `server`'s."""
        if party == "server":
            return self._folder / job_id / "workflow" / "log"
        return self._folder / job_id / "logs" / f"{party}.log"

    def size(self, job_id: str, party: str) -> int:
        """How many bytes are there."""
        try:
            return self.path(job_id, party).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, job_id: str, party: str, offset: int, data: bytes) -> int:
        """Write a site's bytes at their place; returns the offset that is wanted next.

        Bytes that are there already are passed over; a gap is not written, so the site sends again.

        Raises:
            ProtocolError: the log is larger than any site may send.
        """
        path = self.path(job_id, party)
        have = self.size(job_id, party)
        if offset > have:
            return have
        fresh = data[have - offset :]
        if have + len(fresh) > MOST_BYTES:
            raise ProtocolError(f"the log of {party} for job {job_id} is larger than {MOST_BYTES >> 20} MiB")
        if fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(fresh)
            self.tell(job_id)
        return have + len(fresh)

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
        while offset < self.size(job_id, party):
            data = await asyncio.to_thread(_read_at, path, offset)
            if not data:
                return
            yield LogPart(party=party, offset=offset, data=data)
            offset += len(data)


def _read_at(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(CHUNK)
