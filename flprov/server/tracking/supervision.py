# SPDX-License-Identifier: Apache-2.0
"""The receivers' processes: started with the server, begun again when they end, never in a job's way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

from flprov._base import Clock, Tasks, backoff
from flprov.server.foreign import foreign_line
from flprov.wire.documents import TrackingStatus

logger = logging.getLogger(__name__)

_FIRST, _LONGEST = 1.0, 60.0  # seconds between two tries
_LAST_WORDS = 2000  # characters of what a receiver said before it ended
_GRACE = 5.0  # seconds to deliver what it was told, when the server stops


class Tracking:
    """All receivers of one server.

    Args:
        targets: receiver -> where it delivers to.
        jobs: the folder of all jobs.
        state: where the receivers keep how far they are.
        clock: for the waits between tries.
        command: what starts a receiver, before its four words.
    """

    def __init__(
        self,
        targets: Mapping[str, str],
        *,
        jobs: Path,
        state: Path,
        clock: Clock,
        command: Sequence[str] = (sys.executable, "-m", "flprov.server.tracking.receiver"),
    ) -> None:
        self._receivers = [
            _Receiver(kind, [*command, kind, target, str(jobs), str(state / kind)], clock)
            for kind, target in targets.items()
        ]
        self._tasks = Tasks("tracking")

    def start(self) -> None:
        """Start them in the background."""
        for receiver in self._receivers:
            self._tasks.spawn(receiver.run())

    def told(self, job_id: str) -> None:
        """A job has told something."""
        for receiver in self._receivers:
            receiver.tell(job_id)

    def status(self) -> tuple[TrackingStatus, ...]:
        """How they are."""
        return tuple(receiver.status() for receiver in self._receivers)

    async def close(self) -> None:
        """Let them deliver what they were told, and end."""
        await asyncio.gather(*(receiver.end() for receiver in self._receivers))
        await self._tasks.close()


class _Receiver:
    """One of them."""

    def __init__(self, kind: str, command: Sequence[str], clock: Clock) -> None:
        self.kind = kind
        self._command = command
        self._clock = clock
        self._jobs: dict[str, None] = {}  # that it is to be told of
        self._filled = asyncio.Event()
        self._process: Process | None = None
        self._ready = False
        self._ends = 0
        self._reason = ""
        self._closing = False

    def tell(self, job_id: str) -> None:
        self._jobs[job_id] = None
        self._filled.set()

    def status(self) -> TrackingStatus:
        return TrackingStatus(name=self.kind, ready=self._ready, restarts=self._ends, reason=self._reason)

    async def run(self) -> None:
        waits = backoff(_FIRST, _LONGEST)
        while not self._closing:
            self._reason = await self._live()
            if self._closing:
                return
            if self._ready:
                waits = backoff(_FIRST, _LONGEST)
            self._ready = False
            self._ends += 1
            logger.warning("the %s receiver has ended %d times: %s", self.kind, self._ends, self._reason)
            await self._clock.sleep(next(waits))

    async def _live(self) -> str:
        """One process, from its start to its end; why it ended."""
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
        except OSError as error:
            return f"it cannot be started: {error}"
        parts = asyncio.gather(self._hear_ready(process), _last_words(process), self._feed(process))
        try:
            _, words, _ = await parts
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
        return foreign_line(words.strip().rpartition("\n")[2], 500) or f"it ended with status {code}"

    async def _hear_ready(self, process: Process) -> None:
        assert process.stdout is not None
        while await process.stdout.read(4096):  # not by lines: what a library prints may be of any length
            self._ready, self._reason = True, ""
        self._filled.set()  # its end, also for who feeds it

    async def _feed(self, process: Process) -> None:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            while not (self._closing or process.stdout is None or process.stdout.at_eof()):
                self._filled.clear()
                jobs, self._jobs = self._jobs, {}
                process.stdin.write("".join(f"{job_id}\n" for job_id in jobs).encode())
                await process.stdin.drain()
                if not self._jobs:
                    await self._filled.wait()
        process.stdin.close()

    async def end(self) -> None:
        """Close its input, and wait until it is done; who takes too long goes on where it was next time."""
        self._closing = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                process.stdin.write("".join(f"{job_id}\n" for job_id in self._jobs).encode())
        self._filled.set()
        try:
            async with asyncio.timeout(_GRACE):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def _last_words(process: Process) -> str:
    assert process.stderr is not None
    text = b""
    while data := await process.stderr.read(4096):
        text = (text + data)[-_LAST_WORDS:]
    return text.decode(errors="replace")
