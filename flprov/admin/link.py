# SPDX-License-Identifier: Apache-2.0
"""A blocking face on a connection: its event loop runs in a thread of its own.

The loop runs all the time, not only during a call: grpc's flow control stalls for 0.1 s whenever a
loop that was stopped goes on (measured: 7 MB/s instead of 650).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, TypeVar

from flprov._base import from_document, parse_json
from flprov.errors import ProtocolError, ServerUnavailable, TimedOut
from flprov.rpc import Connection
from flprov.rpc.methods import Method
from flprov.wire import Message, pb

T = TypeVar("T")

_AHEAD = 8  # replies that may wait for the caller


class Link:
    """Calls of the method table for code that does not await."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.answered = False  # the server has answered something
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flprov link", daemon=True)
        self._thread.start()

    def prepare(self) -> None:
        """Begin to connect, beside whatever comes before the first call; failures are that call's to tell."""
        self._loop.call_soon_threadsafe(self.connection.prepare)

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and the loop; who still iterates gets ServerUnavailable. Twice is fine."""
        if self._loop.is_closed():
            return
        try:
            self.run(self._end_all())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.connection.close()

    def run(self, work: Awaitable[T]) -> T:
        """The result of something to await; Ctrl-C cancels it. Raises ServerUnavailable after `close`."""

        async def waiting() -> T:
            return await work

        self._verify_open(work)
        future = asyncio.run_coroutine_threadsafe(waiting(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _verify_open(self, work: object) -> None:
        if self._loop.is_closed():
            if asyncio.iscoroutine(work):
                work.close()
            raise ServerUnavailable("this client was closed", hint="open another one")

    def unary(self, method: Method, request: Message, *, timeout: float | None = None) -> Any:  # noqa: ANN401 - the table's
        """The reply to one request. Raises TimedOut after `timeout` seconds."""
        reply = self.run(self.connection.unary(method, request, timeout))
        self.answered = True
        return reply

    def document(self, kind: type[T], method: Method, request: Message) -> T:
        """The document in the reply to one request."""
        return read_document(kind, self.unary(method, request))

    def download(self, method: Method, request: Message, *, timeout: float | None = None) -> Iterator[Any]:
        """Replies one by one. `timeout` bounds the whole."""
        yield from self._each(self.connection.download(method, request), timeout)

    def stream(self, method: Method, requests: AsyncIterator[Any]) -> Iterator[Any]:
        """Replies one by one while `requests` are sent."""
        yield from self._each(self.connection.stream(method, requests), None)

    def _each(self, replies: AsyncIterator[Any], timeout: float | None) -> Iterator[Any]:
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        room = asyncio.Semaphore(_AHEAD)
        self._verify_open(replies)
        pump = asyncio.run_coroutine_threadsafe(_pump(replies, arrived, room, timeout), self._loop)
        pump.add_done_callback(lambda _: arrived.put(_END))
        try:
            while (reply := arrived.get()) is not _END:
                self.answered = True
                yield reply
                with contextlib.suppress(RuntimeError):  # the loop is closed: the pump has put its end
                    self._loop.call_soon_threadsafe(room.release)
            pump.result()
        except TimeoutError:
            raise TimedOut(f"nothing ended within {timeout:.3g} s") from None
        except CancelledError:
            raise ServerUnavailable("this client was closed in the middle of an answer") from None
        finally:
            if pump.cancel():
                self.run(_ended(replies))


_END = object()


async def _pump(
    replies: AsyncIterator[Any],
    arrived: queue.SimpleQueue[Any],
    room: asyncio.Semaphore,
    timeout: float | None,
) -> None:
    try:
        async with asyncio.timeout(timeout):
            async for reply in replies:
                await room.acquire()
                arrived.put(reply)
    finally:
        await _ended(replies)


async def _ended(replies: AsyncIterator[Any]) -> None:
    """Close an iterator; one that is being closed already is left to whoever does that."""
    closing = getattr(replies, "aclose", None)
    if closing is not None:
        with contextlib.suppress(RuntimeError):  # "already running"
            await closing()


def read_document(kind: type[T], reply: pb.Document) -> T:
    """The value that a document of the server spells.

    Raises:
        ProtocolError: it is not such a document.
    """
    try:
        return from_document(kind, parse_json(reply.json))
    except ValueError as error:
        raise ProtocolError(f"the server's answer is not as expected: {error}") from error
