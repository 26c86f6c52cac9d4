# SPDX-License-Identifier: Apache-2.0
"""The dialling side over gRPC: one TCP connection per Connection, opened by the first call.

Before a call goes over a channel, `probe` dials the same address with the standard library: gRPC for Python
shows a client neither the server's certificate nor why a connection failed. That costs one more
handshake (4 ms) per connection, not per call, while the channel connects. In return every failure has a
name, and the server's certificate passes our own rules, not only gRPC's.

After a connection broke, the next call opens a new one, trying the endpoints in order again. Waiting
between tries is the caller's (see `flprov._base.backoff`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from flprov._base import Clock, SystemClock, dataclass
from flprov.errors import FlprovError, IdentityRefused, LocalError, ServerUnavailable
from flprov.pki import Anchors, verify_key_matches
from flprov.project import DIRECT, Route
from flprov.rpc.calls import CallCancelled, DialledConnection
from flprov.rpc.endpoints import join_endpoint, split_endpoint
from flprov.rpc.grpc_settings import EOF, PROTOCOL_METADATA, channel_options, grpc
from flprov.rpc.methods import Method
from flprov.rpc.prober import Prober
from flprov.rpc.status import from_status
from flprov.rpc.transport import Connection
from flprov.wire import verify_protocol

logger = logging.getLogger(__name__)


def connect(
    endpoints: Sequence[str],
    *,
    chain_pem: bytes,
    private_pem: bytes,
    server_anchors: Anchors,
    route: Route = DIRECT,
    clock: Clock | None = None,
    connect_timeout: float = 10.0,
) -> Connection:
    """A connection to the first of `endpoints` ("host:port") that answers as our server should.

    Nothing is dialled before the first call.

    Args:
        endpoints: where the server may be, in order of preference.
        chain_pem: our certificate and the CA that issued it.
        private_pem: its key.
        server_anchors: the *servers* CA, and no other.
        route: the proxy on the way, if there is one. The environment is not looked at.
        clock: compared with the certificates.
        connect_timeout: seconds for each endpoint.

    Raises:
        Misuse: an endpoint is not spelled host:port.
        IdentityRefused: certificate and key do not belong together.
    """
    return dialling(
        endpoints,
        chain_pem=chain_pem,
        private_pem=private_pem,
        server_anchors=server_anchors,
        route=route,
        clock=clock,
        connect_timeout=connect_timeout,
    )()


def dialling(
    endpoints: Sequence[str],
    *,
    chain_pem: bytes,
    private_pem: bytes,
    server_anchors: Anchors,
    route: Route = DIRECT,
    clock: Clock | None = None,
    connect_timeout: float = 10.0,
) -> Callable[[], Connection]:
    """`connect` with these arguments, for who does so again and again: keys are read and checked once.

    Raises:
        As `connect`.
    """
    if not endpoints:
        raise LocalError("there is no endpoint to connect to")
    targets = tuple(join_endpoint(*split_endpoint(endpoint)) for endpoint in endpoints)

    def identify(chain_pem: bytes, private_pem: bytes, server_anchors: Anchors) -> _Shown:
        verify_key_matches(chain_pem, private_pem)
        prober = Prober(
            chain_pem=chain_pem,
            private_pem=private_pem,
            server_anchors=server_anchors,
            route=route,
            clock=clock or SystemClock(),
            timeout=connect_timeout,
        )
        credentials = grpc.ssl_channel_credentials(server_anchors.pem, private_pem, chain_pem)
        return _Shown(prober=prober, credentials=credentials, server_anchors=server_anchors)

    shown = identify(chain_pem, private_pem, server_anchors)
    return lambda: DialledConnection(_Dialler(targets, identify, shown, route))


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """The certificate that is shown, and whom we believe, as both who dial with it need it."""

    server_anchors: Anchors
    prober: Prober
    credentials: grpc.ChannelCredentials


class _Dialler:
    """Opens channels and starts calls on the newest."""

    def __init__(
        self,
        endpoints: Sequence[str],
        identify: Callable[[bytes, bytes, Anchors], _Shown],
        shown: _Shown,
        route: Route,
    ) -> None:
        self._endpoints = endpoints
        self._identify = identify
        self._shown = shown
        self._route = route
        self._link: _Link | None = None
        self._links: set[_Link] = set()  # also those that only serve their open calls to the end
        self._opening = asyncio.Lock()
        self._prepared: asyncio.Task[_Link] | None = None
        self._closed = False

    def prepare(self) -> None:
        self._prepared = asyncio.ensure_future(self._current())
        self._prepared.add_done_callback(_look_at_failure)

    def renew(self, chain_pem: bytes, private_pem: bytes, server_anchors: Anchors | None = None) -> None:
        believed = server_anchors or self._shown.server_anchors
        self._shown = self._identify(chain_pem, private_pem, believed)
        if self._link is not None:
            self._link.retire()

    async def start(self, method: Method) -> _GRPCCall:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await prepared  # a second attempt would take as long as this one did
        return (await self._current()).start(method)

    async def _current(self) -> _Link:
        """The link for a call that begins now."""
        async with self._opening:
            if self._closed:
                raise ServerUnavailable("this connection was closed here")
            while self._link is None or self._link.retired:
                shown = self._shown
                link = await self._open(shown)
                if self._closed:
                    await link.close()
                    raise ServerUnavailable("this connection was closed here")
                self._link = link
                if shown is not self._shown:  # renewed while it was being opened
                    link.retire()
            return self._link

    async def _open(self, shown: _Shown) -> _Link:
        failures = []
        for endpoint in self._endpoints:
            try:
                return await self._try(endpoint, shown)
            except FlprovError as error:
                failures.append(error)
                if endpoint != self._endpoints[-1]:
                    logger.info("%s; trying the next endpoint", error)
        raise _summary(failures)

    async def _try(self, endpoint: str, shown: _Shown) -> _Link:
        """A channel to where somebody listens connects beside the probe; a call waits for what that finds."""
        opened: list[_Link] = []

        def reach(trip: float) -> None:
            opened.append(self._open_channel(endpoint, shown, trip))

        try:
            result = await shown.prober.probe(endpoint, on_reached=reach)
            if result.error is not None:
                raise result.error
            return opened.pop()
        finally:
            for link in opened:
                link.retire()

    def _open_channel(self, endpoint: str, shown: _Shown, trip: float) -> _Link:
        options = channel_options(self._route.proxy_for(*split_endpoint(endpoint)), trip)
        channel = grpc.aio.secure_channel(endpoint, shown.credentials, options=options)
        channel.get_state(try_to_connect=True)
        link = _Link(channel, endpoint, on_closed=self._links.discard)
        self._links.add(link)
        return link

    async def close(self) -> None:
        self._closed = True
        self._link = None
        for link in tuple(self._links):
            await link.close()


def _look_at_failure(prepared: asyncio.Task[_Link]) -> None:
    """Also where no call came that could tell of it."""
    if not prepared.cancelled():
        prepared.exception()


def _summary(failures: Sequence[FlprovError]) -> FlprovError:
    if len(failures) == 1:
        return failures[0]
    message = "; ".join(str(failure) for failure in failures)
    refused = [failure for failure in failures if isinstance(failure, IdentityRefused)]
    kind = IdentityRefused if len(refused) == len(failures) else ServerUnavailable
    return kind(f"no endpoint works: {message}", hint=next((f.hint for f in failures if f.hint), None))


class _Link:
    """One channel and the calls on it. A retired one takes no more, and closes when its last call ends.

    It retires when it broke or when we show another certificate. A server that stops lets open calls
    finish while it refuses new ones, so that broken does not mean that nothing works here any more.
    """

    def __init__(
        self,
        channel: Any,  # noqa: ANN401 - the stubs are behind
        endpoint: str,
        *,
        on_closed: Callable[[_Link], None],
    ) -> None:
        self.endpoint = endpoint
        self.retired = False
        self._channel = channel
        self._on_closed = on_closed
        self._calls: set[_GRPCCall] = set()
        self._closing: asyncio.Task[None] | None = None

    def start(self, method: Method) -> _GRPCCall:
        call = _GRPCCall(self._channel.stream_stream(method.path)(metadata=PROTOCOL_METADATA), self)
        self._calls.add(call)
        return call

    def ended(self, call: _GRPCCall) -> None:
        self._calls.discard(call)
        self._close_when_unused()

    def retire(self) -> None:
        self.retired = True
        self._close_when_unused()

    def _close_when_unused(self) -> None:
        if self.retired and not self._calls:
            self._begin_to_close()

    def _begin_to_close(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._channel.close())
            self._closing.add_done_callback(lambda _: self._on_closed(self))
        return self._closing

    async def close(self) -> None:
        self.retired = True
        for call in tuple(self._calls):
            call.cancel()
        await self._begin_to_close()


class _GRPCCall:
    """One call's bytes."""

    def __init__(self, call: Any, link: _Link) -> None:  # noqa: ANN401 - grpc's class is private
        self._call = call
        self._link = link
        self._greeted = False

    async def send(self, data: bytes) -> bool:
        # Not `write`: once the server has ended the call, that replaces the status which the server sent
        # by one of its own (grpc/grpc#36066). This is what it does otherwise.
        try:
            await self._call.wait_for_connection()
            await self._call._cython_call.send_serialized_message(data)
        except (grpc.aio.AioRpcError, grpc.aio.BaseError):
            return False  # the call is over; `receive` says why
        return True

    async def finish_sending(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.BaseError):
            await self._call.done_writing()

    async def receive(self) -> bytes | None:
        try:
            message = await self._call.read()
            if not self._greeted:
                self._verify_version(dict(await self._call.initial_metadata()))
        except grpc.aio.AioRpcError as error:
            raise self._translate(error) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._call.cancelled() and task is not None and not task.cancelling():
                raise CallCancelled from None
            raise
        return None if message is EOF else cast(bytes, message)

    def cancel(self) -> None:
        self._call.cancel()
        self._link.ended(self)

    def _translate(self, error: grpc.aio.AioRpcError) -> FlprovError:
        trailers: tuple[tuple[str, str | bytes], ...] = tuple(cast(Any, error.trailing_metadata()) or ())
        if PROTOCOL_METADATA[0][0] in dict(trailers):
            self._verify_version(dict(trailers))
        found = from_status(error.code(), error.details() or "", trailers, server=self._link.endpoint)
        if isinstance(found, ServerUnavailable):
            self._link.retire()
        return found

    def _verify_version(self, metadata: dict[str, str | bytes]) -> None:
        version = str(metadata.get(PROTOCOL_METADATA[0][0], ""))
        peer = f"the server at {self._link.endpoint}"
        verify_protocol(int(version) if re.fullmatch("[0-9]{1,6}", version) else 0, peer=peer)
        self._greeted = True
