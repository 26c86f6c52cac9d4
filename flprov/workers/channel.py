# SPDX-License-Identifier: Apache-2.0
"""The channel: protobuf frames between a parent (server or agent) and its worker.

The frames go over an inherited socketpair. The parent treats the worker as a hostile peer:
whatever is not a frame is a ProtocolError, and a declared length above the limit is refused
before anything is allocated for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Protocol

from flprov.errors import JobFailed, LocalError, ProtocolError, Unavailable
from flprov.wire import HEADER_SIZE, frame_length, pack_frame, parse_frame, pb
from flprov.workers.descriptors import receive_descriptors

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable


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
    """A `Channel` over a connected socket, on asyncio. Made by `open_channel`.

    It reads and writes through two descriptors: that the worker hears nothing any more takes away nothing of
    what it has said.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reader: asyncio.StreamReader,
        reading: asyncio.Transport,
        lost: asyncio.Event,
        sending: socket.socket,
        turn: asyncio.Lock,
    ) -> None:
        self._loop = loop
        self._reader = reader
        self._reading = reading
        self._lost = lost  # the transport is closed
        self._sending = sending
        self._turn = turn  # one frame after the other

    async def send(self, message: pb.ToWorker) -> None:
        """See `Channel.send`."""
        frame = pack_frame(message)
        async with self._turn:
            if self._reading.is_closing():
                raise JobFailed("the channel to the job's process is closed")
            try:
                await self._loop.sock_sendall(self._sending, frame)
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
        with contextlib.suppress(OSError):  # ended already
            self._sending.shutdown(socket.SHUT_RDWR)  # whoever waits to send learns of it, too
        self._reading.close()

    async def wait_closed(self) -> None:
        """The same, and wait until that is done."""
        self.close()
        await self._lost.wait()

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

    class Reading(asyncio.StreamReaderProtocol):
        """Whatever ended the stream: what came before it is read first."""

        def eof_received(self) -> bool:
            super().eof_received()
            return False  # nobody is there to write to

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            super().connection_lost(None)
            sending.close()
            lost.set()

    sock.setblocking(False)  # noqa: FBT003 - the function takes it by position only
    sending, lost, reader = sock.dup(), asyncio.Event(), asyncio.StreamReader()
    sending.setblocking(False)  # noqa: FBT003
    loop = asyncio.get_running_loop()
    reading, _ = await loop.create_connection(lambda: Reading(reader), sock=sock)
    return StreamChannel(loop, reader, reading, lost, sending, asyncio.Lock())


class WorkerChannel:
    """The worker's side: blocking, one reader, any number of sending threads.

    Args:
        sock: the frames.
        lifeline: brings the frames of the next parent, when this one is gone.
    """

    def __init__(self, sock: socket.socket, lifeline: socket.socket | None = None) -> None:
        self._sock = sock
        self._lifeline = lifeline
        self._greeting: Callable[[], Iterable[pb.FromWorker]] | None = None
        self._sending = threading.Lock()
        self._unheard = False  # nobody has got what was sent last

    def outlive(self, greeting: Callable[[], Iterable[pb.FromWorker]]) -> None:
        """From now on the parent's end is not ours, where there is a lifeline.

        What is sent meanwhile is dropped; the next parent is told `greeting()` first.
        """
        if self._lifeline is not None:
            self._greeting = greeting

    def send(self, message: pb.FromWorker) -> None:
        """Send one message; blocks while the parent does not read.

        Raises:
            Unavailable: the parent is gone, and none will come after it.
            LocalError: the message is larger than a frame may be.
        """
        frame = pack_frame(message)
        with self._sending:
            self._look_for_parent()
            while not self._write(frame):
                if self._greeting is None:
                    raise Unavailable("the parent of this job has closed the channel")
                if not self._look_for_parent():
                    self._unheard = True
                    return

    def receive(self) -> pb.ToWorker | None:
        """The parent's next message, or None when it is gone and none will come after it.

        Raises:
            ProtocolError: what came is not a frame with a message in it.
        """
        while True:
            sock = self._sock
            header = _read(sock, HEADER_SIZE)
            data = None if header is None else _read(sock, frame_length(header))
            if data is not None:
                return parse_frame(pb.ToWorker, data)
            if not self._wait_parent(sock):
                return None

    def pending(self) -> bool:
        """Whether `receive` has something to read, be it the end of the stream."""
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(0))

    def settle(self) -> None:
        """Wait until what was sent last has gone to a parent, or none will come any more."""
        while self._unheard and self._wait_parent(self._sock):
            pass

    def close(self) -> None:
        """Close this end; the parent reads the end of the stream."""
        self._sock.close()

    def _write(self, frame: bytes) -> bool:
        try:
            self._sock.sendall(frame)
        except OSError:
            return False
        self._unheard = False
        return True

    def _wait_parent(self, lost: socket.socket) -> bool:
        """Wait for the parent after the one behind `lost`; False when there will be none."""
        if self._lifeline is None or self._greeting is None:
            return False
        while True:
            with self._sending:
                if self._sock is not lost or self._look_for_parent():
                    return True
            if self._greeting is None:
                return False
            poller = select.poll()
            poller.register(self._lifeline, select.POLLIN)
            poller.poll()

    def _look_for_parent(self) -> bool:
        """Go over to a new parent, if the lifeline has brought one, and greet it."""
        if self._greeting is None or (found := self._newest()) is None:
            return False
        self._sock.close()
        self._sock = found
        for message in self._greeting():
            self._write(pack_frame(message))
        return True

    def _newest(self) -> socket.socket | None:
        """The last channel that the lifeline has brought; the others are of parents that are gone, too."""
        assert self._lifeline is not None
        found: socket.socket | None = None
        while True:
            try:
                data, descriptors = receive_descriptors(self._lifeline, 64)
            except BlockingIOError:
                return found
            except OSError:
                data, descriptors = b"", []
            for descriptor in descriptors:
                if found is not None:
                    found.close()
                found = socket.socket(fileno=descriptor)
            if not data:  # the shim is gone
                self._greeting = None
                return found


def _read(sock: socket.socket, count: int) -> bytes | None:
    """Exactly `count` bytes, or None when the stream ends before."""
    data = bytearray(count)
    view = memoryview(data)
    while view:
        try:
            taken = sock.recv_into(view)
        except OSError:  # also when another thread has gone over to the next parent
            return None
        if taken == 0:
            return None
        view = view[taken:]
    return bytes(data)


def adopt_channel(descriptor: int, lifeline: int | None = None) -> WorkerChannel:
    """The worker's channel over the inherited `descriptor` (FLPROV_CHANNEL_FD), and its lifeline.

    Programs that the job starts do not inherit them any more.

    Raises:
        LocalError: a descriptor is not an open socket.
    """
    line = None if lifeline is None else _inherited(lifeline)
    return WorkerChannel(_inherited(descriptor), line)


def _inherited(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - the function takes it by position only
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise LocalError(f"descriptor {descriptor} is not the channel to a parent") from error
