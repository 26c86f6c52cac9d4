# SPDX-License-Identifier: Apache-2.0
"""What leaves the site, masked as its policy says: by a process beside the agent, in a time that is limited.

The patterns are the site's own, and one of them may take for ever on some line. The agent must go on
meanwhile, so another process looks for them, and what it cannot mask in time does not leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import flprov.policy
from flprov.errors import LocalError

logger = logging.getLogger(__name__)

SECONDS = 5.0  # for one piece, of which most take milliseconds
HIDDEN = b"[flprov: this could not be redacted in time and is not sent] "
_SCRIPT = Path(flprov.policy.__file__).with_name("masking.py")
_IDLE = 10.0  # seconds after which the process is ended; it starts in 20 ms
_LENGTH = 4


def hide(data: bytes, why: bytes = HIDDEN) -> bytes:
    """As many bytes and lines as `data`, with nothing of it but, if there is room, the reason."""
    stars = b"\n".join(b"*" * len(line) for line in data.split(b"\n"))
    longest = stars.find(b"*" * len(why))
    return stars if longest < 0 else stars[:longest] + why + stars[longest + len(why) :]


class Redactor:
    """Masks pieces of a job's output, one after the other. `close` it."""

    def __init__(self, patterns: Sequence[str], *, seconds: float = SECONDS) -> None:
        self.patterns = tuple(patterns)
        self._seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    async def mask(self, data: bytes) -> bytes:
        """`data`, which is whole lines, with every match masked; what takes too long is hidden."""
        if not self.patterns or not data:
            return data
        async with self._turn:
            try:
                async with asyncio.timeout(self._seconds):
                    return await self._ask(data)
            except (TimeoutError, OSError, asyncio.IncompleteReadError, LocalError) as error:
                why = str(error) or f"it took more than {self._seconds:g} seconds"
                logger.warning("%d bytes could not be redacted and are not sent: %s", len(data), why)
                await self._end()
                return hide(data)
            except BaseException:  # half an answer must not be taken for the next one
                await self._end()
                raise

    async def redact(self, text: str) -> str:
        """The same for a message."""
        data = text.encode("utf-8", "surrogatepass")
        return (await self.mask(data)).decode("utf-8", "replace")

    async def _ask(self, data: bytes) -> bytes:
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(len(data).to_bytes(_LENGTH, "big") + data)
        await process.stdin.drain()
        masked = await process.stdout.readexactly(len(data))
        self._rest()
        return masked

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-ISE",
            str(_SCRIPT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        patterns = "\n".join(self.patterns).encode()
        process.stdin.write(len(patterns).to_bytes(_LENGTH, "big") + patterns)
        return process

    def _rest(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(_IDLE, self._end_soon)

    def _end_soon(self) -> None:
        if self._process is not None and not self._turn.locked() and self._process.stdin is not None:
            self._process.stdin.close()  # it ends at the end of its input
            self._process = None

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]  # else at collection

    async def close(self) -> None:
        """End the process. It starts again when there is more to mask."""
        if self._idle is not None:
            self._idle.cancel()
        await self._end()
