# SPDX-License-Identifier: Apache-2.0
"""The channel: protobuf frames between a parent (server or agent) and its worker.

The frames go over an inherited socketpair. The parent treats the worker as a hostile peer:
whatever is not a frame is a ProtocolError, and a declared length above the limit is refused
before anything is allocated for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Protocol

from flprov.errors import JobFailed, LocalError, ProtocolError, Unavailable
from flprov.wire import HEADER_SIZE, frame_length, pack_frame, parse_frame, pb

if TYPE_CHECKING:
    import asyncio


class Channel(Protocol):
    """The parent's side of the frames."""

    async def send(self, message: pb.ToWorker) -> None:
        """Send one message; waits while the worker does not read.

        Raises:
            JobFailed: the worker has closed its end.
            LocalError: the message is larger than a frame may be.
        """
        ...

    async def receive(self) -> pb.FromWorker | None:
        """The worker's next message, or None when it has closed its end.

        Raises:
            ProtocolError: what came is not a frame with a message in it; close the channel.
        """
        ...

    def close(self) -> None:
        """Close this end; the worker reads the end of the stream."""
        ...


class StreamChannel:
    """A `Channel` over a connected socket, on asyncio. Made by `open_channel`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, message: pb.ToWorker) -> None:
        """See `Channel.send`."""
        frame = pack_frame(message)
        if self._writer.is_closing():
            raise JobFailed("the channel to the job's process is closed")
        try:
            self._writer.write(frame)
            await self._writer.drain()
        except OSError as error:
            raise JobFailed("the job's process has closed its channel") from error

    async def receive(self) -> pb.FromWorker | None:
        """See `Channel.receive`."""
        header = await self._read(HEADER_SIZE)
        if not header:
            return None
        length = frame_length(header) if len(header) == HEADER_SIZE else 1
        data = await self._read(length)
        if len(data) < length:
            raise ProtocolError("the job's process ended in the middle of a message")
        return parse_frame(pb.FromWorker, data)

    def close(self) -> None:
        """See `Channel.close`."""
        self._writer.close()

    async def wait_closed(self) -> None:
        """Close, throwing away what the worker has not read, and wait until that is done."""
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self, count: int) -> bytes:
        """`count` bytes; fewer only at the end of the stream."""
        try:
            return await self._reader.readexactly(count)
        except EOFError as error:  # asyncio.IncompleteReadError
            return bytes(getattr(error, "partial", b""))
        except ConnectionError:
            return b""


async def open_channel(sock: socket.socket) -> StreamChannel:
    """The parent's channel over its end of a socketpair, which it takes over."""
    import asyncio  # not at the top: workers import this module too and should start fast

    sock.setblocking(False)  # noqa: FBT003 - the function takes it by position only
    reader, writer = await asyncio.open_connection(sock=sock)
    return StreamChannel(reader, writer)


class WorkerChannel:
    """The worker's side: blocking, one reader, any number of sending threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, message: pb.FromWorker) -> None:
        """Send one message; blocks while the parent does not read.

        Raises:
            Unavailable: the parent is gone.
            LocalError: the message is larger than a frame may be.
        """
        frame = pack_frame(message)
        try:
            with self._sending:
                self._sock.sendall(frame)
        except OSError as error:
            raise Unavailable("the parent of this job has closed the channel") from error

    def receive(self) -> pb.ToWorker | None:
        """The parent's next message, or None when it is gone.

        Raises:
            ProtocolError: what came is not a frame with a message in it.
        """
        header = self._read(HEADER_SIZE)
        data = None if header is None else self._read(frame_length(header))
        return None if data is None else parse_frame(pb.ToWorker, data)

    def close(self) -> None:
        """Close this end; the parent reads the end of the stream."""
        self._sock.close()

    def _read(self, count: int) -> bytes | None:
        """Exactly `count` bytes, or None when the stream ends before."""
        data = bytearray(count)
        view = memoryview(data)
        while view:
            try:
                taken = self._sock.recv_into(view)
            except ConnectionError:
                return None
            if taken == 0:
                return None
            view = view[taken:]
        return bytes(data)


def adopt_channel(descriptor: int) -> WorkerChannel:
    """The worker's channel over the inherited `descriptor` (FLPROV_CHANNEL_FD).

    Programs that the job starts do not inherit it any more.

    Raises:
        LocalError: the descriptor is not an open socket.
    """
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the function takes it by position only
        return WorkerChannel(socket.socket(fileno=descriptor))
    except OSError as error:
        raise LocalError(f"descriptor {descriptor} is not the channel to a parent") from error
