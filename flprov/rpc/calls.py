# SPDX-License-Identifier: Apache-2.0
"""The dialling side's half of a call, the same for every transport: messages to bytes and back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

from flprov.errors import ProtocolError, ServerUnavailable, TimedOut
from flprov.pki import Anchors
from flprov.rpc.dispatch import decode, encode
from flprov.rpc.methods import Method
from flprov.wire import Message


class CallCancelled(Exception):
    """The call was cancelled at this end, and not by cancelling the task that waits for it."""


class RawCall(Protocol):
    """One outgoing call as its transport carries it."""

    async def send(self, data: bytes) -> bool:
        """Send one message; waits while the other side is slow. False when the call is over already."""
        ...

    async def finish_sending(self) -> None:
        """Say that no more messages come."""
        ...

    async def receive(self) -> bytes | None:
        """The next message; None at the good end.

        Raises:
            CallCancelled: `cancel` was called, or the connection closed.
            FlprovError: what ended the call.
        """
        ...

    def cancel(self) -> None:
        """End the call, if it is not over."""
        ...


class Dialler(Protocol):
    """Starts calls."""

    def prepare(self) -> None:
        """Begin to connect, in the running loop. What goes wrong is the next call's to tell."""
        ...

    async def start(self, method: Method) -> RawCall:
        """A new call. Raises ServerUnavailable or IdentityRefused when no connection can be had."""
        ...

    def renew(self, chain_pem: bytes, private_pem: bytes, server_anchors: Anchors | None = None) -> None:
        """Start calls with this certificate from now on, and believe these CAs.

        Raises:
            IdentityRefused: certificate and key do not belong together.
        """
        ...

    async def close(self) -> None:
        """Cancel what is open and let go."""
        ...


class DialledConnection:
    """A Connection over any Dialler."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler

    def prepare(self) -> None:
        """Begin to connect; what goes wrong comes out of the next call."""
        self._dialler.prepare()

    async def unary(self, method: Method, request: Message, timeout: float | None = None) -> Any:  # noqa: ANN401
        """The reply to one request. Raises TimedOut after `timeout` seconds."""
        try:
            async with (
                asyncio.timeout(timeout),
                contextlib.aclosing(self.download(method, request)) as replies,
            ):
                reply = await anext(replies, None)
                surplus = await anext(replies, None)
        except TimeoutError:
            raise TimedOut(f"{method.path} was not answered within {timeout:g} seconds") from None
        if reply is None or surplus is not None:
            raise ProtocolError(f"{method.path} was not answered with exactly one message")
        return reply

    async def download(self, method: Method, request: Message) -> AsyncGenerator[Any, None]:
        """The replies to one request."""
        data = encode(request)
        call = await self._dialler.start(method)
        try:
            if await call.send(data):
                await call.finish_sending()
            while (reply := await call.receive()) is not None:
                yield decode(method.reply, reply)
        except CallCancelled:
            raise _closed(method) from None
        finally:
            call.cancel()

    async def stream(self, method: Method, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Replies while requests are sent."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_close, requests)
            call = await self._dialler.start(method)
            stack.callback(call.cancel)
            sender = asyncio.ensure_future(_send_all(call, requests))
            stack.push_async_callback(_cancel, sender)
            while (reply := await _receive(call, sender, method)) is not None:
                yield decode(method.reply, reply)

    def renew(self, chain_pem: bytes, private_pem: bytes, server_anchors: Anchors | None = None) -> None:
        """Show this certificate in calls from now on, and believe these CAs."""
        self._dialler.renew(chain_pem, private_pem, server_anchors)

    async def close(self) -> None:
        """Cancel what is open and let go."""
        await self._dialler.close()


async def _send_all(call: RawCall, requests: AsyncIterator[Message | bytes]) -> None:
    try:
        async for request in requests:
            if not await call.send(encode(request)):
                return
        await call.finish_sending()
    except BaseException:
        call.cancel()
        raise


async def _receive(call: RawCall, sender: asyncio.Future[None], method: Method) -> bytes | None:
    """The next message; what went wrong while sending comes before what that did to the call."""
    try:
        return await call.receive()
    except CallCancelled:
        if sender.done() and not sender.cancelled():
            sender.result()
        raise _closed(method) from None


def _closed(method: Method) -> ServerUnavailable:
    return ServerUnavailable(f"the connection was closed here while {method.path} was open")


async def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # told already, or the call ended before it mattered


async def _close(requests: AsyncIterator[Any]) -> None:
    close = getattr(requests, "aclose", None)  # generators have it, other iterators need not
    if close is not None:
        await close()
