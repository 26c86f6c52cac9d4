# SPDX-License-Identifier: Apache-2.0
"""A blocking face on a connection: one private event loop, run only while a call is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from flprov._base import from_document, parse_json
from flprov.errors import ProtocolError, TimedOut
from flprov.rpc import Connection
from flprov.rpc.methods import Method
from flprov.wire import Message, pb

T = TypeVar("T")


class Link:
    """Calls of the method table, one at a time, for code that does not await."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runner = asyncio.Runner()

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and the loop."""
        self.run(self._connection.close())
        self._runner.close()

    def run(self, work: Awaitable[T]) -> T:
        """The result of something to await."""

        async def waiting() -> T:
            return await work

        return self._runner.run(waiting())

    def unary(self, method: Method, request: Message) -> Any:  # noqa: ANN401 - the table's reply type
        """The reply to one request."""
        return self.run(self._connection.unary(method, request))

    def document(self, kind: type[T], method: Method, request: Message) -> T:
        """The document in the reply to one request."""
        return read_document(kind, self.unary(method, request))

    def download(self, method: Method, request: Message, *, timeout: float | None = None) -> Iterator[Any]:
        """Replies one by one. `timeout` bounds the whole."""
        yield from self._each(self._connection.download(method, request), timeout)

    def stream(self, method: Method, requests: AsyncIterator[Any]) -> Iterator[Any]:
        """Replies one by one while `requests` are sent."""
        yield from self._each(self._connection.stream(method, requests), None)

    def _each(self, replies: AsyncIterator[Any], timeout: float | None) -> Iterator[Any]:
        deadline: list[float] = []

        async def following() -> Any:  # noqa: ANN401
            loop = asyncio.get_running_loop()
            if timeout is not None and not deadline:
                deadline.append(loop.time() + timeout)
            async with asyncio.timeout_at(deadline[0] if deadline else None):
                return await anext(replies, _END)

        try:
            while (reply := self._runner.run(following())) is not _END:
                yield reply
        except TimeoutError:
            raise TimedOut(f"nothing ended within {timeout:g} s") from None
        finally:
            closing = getattr(replies, "aclose", None)
            if closing is not None:
                self.run(closing())


_END = object()


def read_document(kind: type[T], reply: pb.Document) -> T:
    """The value that a document of the server spells.

    Raises:
        ProtocolError: it is not such a document.
    """
    try:
        return from_document(kind, parse_json(reply.json))
    except ValueError as error:
        raise ProtocolError(f"the server's answer is not as expected: {error}") from error
