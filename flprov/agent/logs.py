# SPDX-License-Identifier: Apache-2.0
"""A job's log on its way to the server: sent when it grows, from where the server says it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

from flprov.agent.bulk import Bulk
from flprov.errors import FlprovError, Unavailable

_CHUNK = 256 << 10


class LogSender:
    """Sends one file. `grew` may be called as often as one likes."""

    def __init__(self, bulk: Bulk, job_id: str, path: Path) -> None:
        self._bulk = bulk
        self._job_id = job_id
        self._path = path
        self._offset = 0
        self._sending = asyncio.Lock()
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def grew(self) -> None:
        """The file has new bytes: send them in the background."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain(), name=f"log {self._job_id}")

    async def flush(self) -> None:
        """Send what there is; gives up without an error when the server does not answer."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._drain(force=True)

    async def _drain(self, *, force: bool = False) -> None:
        async with self._sending:
            while self._again or force:
                self._again = force = False
                try:
                    await self._send_rest()
                except (Unavailable, FlprovError):
                    return  # the next growth, or the flush at the end, sends from where the server is

    async def _send_rest(self) -> None:
        while data := await asyncio.to_thread(self._read):
            wanted = await self._bulk.send_log(self._job_id, self._offset, data)
            if wanted == self._offset:
                return
            self._offset = wanted

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                return file.read(_CHUNK)
        except FileNotFoundError:
            return b""
