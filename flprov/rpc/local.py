# SPDX-License-Identifier: Apache-2.0
"""A process's own status for people on the same machine: a Unix socket in its private state folder.

A file could be stale; a socket answers only while the process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from flprov.errors import ServerUnavailable

_NAME = "status.sock"
_HOLD = "hold.sock"
_HELD = b"held\n"
_MOST_BYTES = 4 << 20
_PATIENCE = 5.0  # seconds; it answers in milliseconds unless it is stopped or stuck


@contextlib.asynccontextmanager
async def serve_local(folder: Path, document: Callable[[], bytes]) -> AsyncIterator[None]:
    """Answer each connection to the socket in `folder` with the document of that moment."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(document())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    (folder / _NAME).unlink(missing_ok=True)
    with _short(folder) as path:
        server = await asyncio.start_unix_server(answer, path)
        (folder / _NAME).chmod(0o600)
    try:
        yield
    finally:
        server.close()
        (folder / _NAME).unlink(missing_ok=True)


def ask_local(folder: Path, *, what: str, hint: str) -> bytes:
    """The document of the process whose state lies in `folder`.

    Raises:
        ServerUnavailable: nothing runs there, or it may not be asked by this user.
    """
    try:
        with _short(folder) as path, socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            found = bytearray()
            while (data := sock.recv(1 << 16)) and len(found) < _MOST_BYTES:
                found += data
            return bytes(found)
    except TimeoutError as error:
        raise ServerUnavailable(f"{what} runs, but has not answered for {_PATIENCE:g} s") from error
    except PermissionError as error:
        raise ServerUnavailable(
            f"whether {what} runs cannot be asked: {folder} is another user's",
            hint="run this as the user that runs it",
        ) from error
    except OSError as error:
        raise ServerUnavailable(f"{what} is not running on this machine", hint=hint) from error


@contextlib.asynccontextmanager
async def serve_holds(
    folder: Path, begin: Callable[[], None], end: Callable[[], object]
) -> AsyncIterator[None]:
    """Let others on this machine hold something as it is: each for as long as its connection lives.

    A hold ends with the process that has it, whatever ends that.
    """

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begin()
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(_HELD)
                await writer.drain()
                while await reader.read(1 << 10):
                    pass
        finally:
            end()
            writer.close()

    (folder / _HOLD).unlink(missing_ok=True)
    with _short(folder, _HOLD) as path:
        server = await asyncio.start_unix_server(hold, path)
        (folder / _HOLD).chmod(0o600)
    try:
        yield
    finally:
        server.close()
        (folder / _HOLD).unlink(missing_ok=True)


class Hold:
    """What `hold_local` gives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @property
    def alive(self) -> bool:
        """Whether the other side holds still; once it does not, it never will again."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


@contextlib.contextmanager
def hold_local(folder: Path, *, what: str, hint: str) -> Iterator[Hold]:
    """Hold while inside, with `serve_holds` of the process whose state lies in `folder`.

    Raises:
        ServerUnavailable: nothing runs there.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(_short(folder, _HOLD))
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            if sock.recv(len(_HELD)) != _HELD:
                raise ServerUnavailable(f"{what} is stopping", hint=hint)
            sock.setblocking(False)  # noqa: FBT003 - by position only
        except TimeoutError as error:
            raise ServerUnavailable(f"{what} runs, but has not answered for {_PATIENCE:g} s") from error
        except OSError as error:
            raise ServerUnavailable(f"{what} is starting or stopping", hint=hint) from error
        yield Hold(sock)


@contextlib.contextmanager
def _short(folder: Path, name: str = _NAME) -> Iterator[str]:
    """A name for the socket below the 108 bytes that the kernel takes, however deep `folder` lies."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
