# SPDX-License-Identifier: Apache-2.0
"""One incoming call, from the knock to the last message; the same for every transport.

The order is the point, and it is deny by default: who are you (certificate), do we speak the same
protocol, may you come in at all (gate), may you call this (table). Only then is the first byte of a
request read.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, cast

from flprov._base import dataclass
from flprov.errors import FlprovError, LocalError, PermissionRefused, ProtocolError, Refused
from flprov.pki import Identity, Kind, Leaf
from flprov.rpc.commands import command_of
from flprov.rpc.methods import BY_PATH, Method, Shape
from flprov.rpc.open_calls import OpenCalls
from flprov.rpc.transport import (
    MESSAGE_LIMIT,
    Call,
    DownloadHandler,
    Gate,
    OnRefusal,
    Service,
    StreamHandler,
    UnaryHandler,
    verify_service,
)
from flprov.wire import Message, parse_message, verify_protocol

_log = logging.getLogger(__name__)

_LONGEST_PATH = 100


class CallerGone(Exception):
    """The transport cannot reach the caller any more. Never leaves a transport."""


class Exchange(Protocol):
    """One incoming call as its transport carries it: bytes in, bytes out."""

    async def accept(self) -> None:
        """Tell the caller that the call was let in, before any reply."""
        ...

    async def read(self, *, ahead: bool = False) -> bytes | None:
        """The next message; None when the caller will send no more. May be cancelled and repeated.

        `ahead`: the one after it may be read meanwhile.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Send one message; waits while the caller is slow. Raises CallerGone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What a transport knows about a call before it is let in."""

    path: str
    peer: str
    protocol: str  # as the caller spelled it; empty when it said nothing
    identify: Callable[[], Identity]  # raises IdentityRefused
    leaf: Callable[[], Leaf | None] = lambda: None  # the caller's certificate, if there is one


def _admit_everybody(_identity: Identity, _leaf: Leaf | None) -> None:
    """The gate of a service that knows of no locks."""


def _tell_nobody(_identity: Identity | None, _path: str, _error: Exception) -> None:
    """For a service that keeps no record."""


class Dispatcher:
    """Lets calls in or refuses them, and runs the handlers. Belongs to one event loop.

    Raises:
        LocalError: the service does not fit the method table.
    """

    def __init__(
        self, service: Service, *, gate: Gate | None = None, on_refusal: OnRefusal | None = None
    ) -> None:
        verify_service(service)
        self._service = service
        self._gate = gate or _admit_everybody
        self._on_refusal = on_refusal or _tell_nobody
        self._open = OpenCalls()
        self._stopped: FlprovError | None = None

    async def answer(self, arrival: Arrival, exchange: Exchange) -> None:
        """Serve one call to its end, in the current task.

        Raises:
            FlprovError: what to tell the caller.
            CallerGone: there is nobody to tell.
        """
        try:
            await self._answer(arrival, exchange)
        except (FlprovError, CallerGone):
            raise
        except Exception as error:  # the outermost loop of a call: nothing may leak to the peer
            raise _internal(arrival, error) from error

    async def _answer(self, arrival: Arrival, exchange: Exchange) -> None:
        caller: Identity | None = None
        try:
            caller = arrival.identify()
            call = self._admit(arrival, caller)
            with self._open.track(call):
                await exchange.accept()
                await self._run(call, exchange)
        except (Refused, ProtocolError) as error:
            self._on_refusal(caller, show_path(arrival.path), error)
            raise
        except LocalError as error:
            _log.error("%s by %s failed: %s", show_path(arrival.path), caller, error, exc_info=error)
            raise

    def drop(self, identity_uri: str, reason: FlprovError) -> int:
        """End this identity's open calls (not the current one); how many."""
        return self._open.end_of(identity_uri, reason)

    def stop(self, reason: FlprovError) -> None:
        """Refuse new calls and end streams and downloads for this reason."""
        self._stopped = reason
        self._open.end_streams(reason)

    def _admit(self, arrival: Arrival, caller: Identity) -> Call:
        _verify_version(arrival.protocol, caller)
        if self._stopped is not None:
            raise self._stopped
        leaf = arrival.leaf()
        self._gate(caller, leaf)
        method = BY_PATH.get(arrival.path)
        if method is None or not method.allows(caller):
            raise _not_allowed(arrival.path, method, caller)
        return Call(caller=caller, method=method, peer=arrival.peer, leaf=leaf)

    async def _run(self, call: Call, exchange: Exchange) -> None:
        method, handler = call.method, self._service[call.method]
        if method.shape is Shape.STREAM:
            replies = cast(StreamHandler, handler)(call, _Requests(exchange, method))
            await _send_all(replies, exchange)
            return
        request = await anext(_Requests(exchange, method), None)
        if request is None:
            raise ProtocolError(f"{method.path} came without a request")
        if method.shape is Shape.DOWNLOAD:
            await _send_all(cast(DownloadHandler, handler)(call, request), exchange)
        else:
            reply: Awaitable[Message] = cast(UnaryHandler, handler)(call, request)
            await exchange.write(encode(await reply))


class _Requests(AsyncIterator[Any]):
    """The caller's messages. Not a generator, so that a cancelled wait for the next one loses nothing."""

    def __init__(self, exchange: Exchange, method: Method) -> None:
        self._exchange = exchange
        self._kind: type[Message] | type[bytes] = method.request
        self._next = bytes if method.brings_bytes else method.request
        self._ahead = method.brings_bytes  # one comes while another is written to disk

    async def __anext__(self) -> Any:  # noqa: ANN401 - the type is the table row's
        data = await self._exchange.read(ahead=self._ahead)
        if data is None:
            raise StopAsyncIteration
        kind, self._kind = self._kind, self._next
        return decode(kind, data)


async def _send_all(replies: AsyncIterator[Message | bytes], exchange: Exchange) -> None:
    try:
        async for reply in replies:
            await exchange.write(encode(reply))
            del reply  # the next one may be hours away
    finally:
        close = getattr(replies, "aclose", None)  # generators have it, other iterators need not
        if close is not None:
            await close()


def decode(kind: type[Message] | type[bytes], data: bytes) -> Message | bytes:
    """A message from a peer. Raises ProtocolError when it is too large or none of this kind.

    Bytes are taken as they are: wrapped in a message each of them would be copied six times on its way.
    """
    if len(data) > MESSAGE_LIMIT:
        raise ProtocolError(f"a message of {len(data)} bytes arrived; the limit is {MESSAGE_LIMIT}")
    return data if issubclass(kind, bytes) else parse_message(kind, data)


def encode(message: Message | bytes) -> bytes:
    """The bytes of a message. Raises LocalError when there are more than a message may have."""
    data = message if isinstance(message, bytes) else message.SerializeToString()
    if len(data) > MESSAGE_LIMIT:
        name = "bytes" if isinstance(message, bytes) else message.DESCRIPTOR.name
        raise LocalError(
            f"a {name} message of {len(data)} bytes cannot be sent; the limit is {MESSAGE_LIMIT}",
            hint="send what is large as a blob, in chunks",
        )
    return data


def show_path(path: str) -> str:
    """A method's path from a stranger, safe to print."""
    cut = path if len(path) <= _LONGEST_PATH else path[:_LONGEST_PATH] + "..."
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in cut)


def _verify_version(text: str, caller: Identity) -> None:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ProtocolError(
            "the call does not say which version of the protocol it speaks",
            hint="call with flprov's own client",
        )
    verify_protocol(int(text), peer=str(caller), local="the server")


def _not_allowed(path: str, method: Method | None, caller: Identity) -> PermissionRefused:
    """Says who may only to a person for whom another role would do.

    To anybody else a method that is not for them and one that does not exist look the same.
    """
    if method is None or caller.kind is not Kind.PERSON or Kind.PERSON not in method.kinds:
        return PermissionRefused(f"{caller} may not call {show_path(path)}")
    roles = ", ".join(sorted(role.value for role in method.roles))
    role = caller.role.value if caller.role else "nobody"
    return PermissionRefused(
        f"{caller.name} is {role} and may not do `{command_of(method)}`; these roles may: {roles}",
        hint="ask somebody who has one of them",
    )


def _internal(arrival: Arrival, error: Exception) -> LocalError:
    reference = secrets.token_hex(4)
    _log.error(
        "%s from %s failed, reference %s", show_path(arrival.path), arrival.peer, reference, exc_info=error
    )
    return LocalError(f"internal error, see the server's log, reference {reference}")
