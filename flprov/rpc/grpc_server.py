# SPDX-License-Identifier: Apache-2.0
"""The listening side over gRPC: one port, TLS 1.3, client certificates always.

gRPC carries bytes here. Which calls exist, who may make them and what a request means is decided by the
dispatcher, before gRPC has read a request: to gRPC each method, also one that does not exist, is a
stream of bytes both ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

from flprov._base import Clock, SystemClock
from flprov.errors import FlprovError, LocalError, ServerUnavailable
from flprov.pki import Anchors, Kind, Leaf, verify_key_matches
from flprov.rpc.dispatch import Arrival, CallerGone, Dispatcher
from flprov.rpc.endpoints import join_endpoint, split_endpoint
from flprov.rpc.grpc_settings import EOF, PROTOCOL_METADATA, SERVER_OPTIONS, grpc
from flprov.rpc.peers import PeerCheck
from flprov.rpc.status import to_status
from flprov.rpc.transport import Gate, OnRefusal, Service

_CALLERS = frozenset({Kind.SITE, Kind.PERSON, Kind.INVITE})


async def serve(
    service: Service,
    *,
    listen: str,
    chain_pem: bytes,
    private_pem: bytes,
    anchors: Anchors,
    clock: Clock | None = None,
    gate: Gate | None = None,
    on_refusal: OnRefusal | None = None,
) -> GRPCListener:
    """Listen on `listen` ("host:port", port 0 for any free one) and serve until stopped.

    Args:
        service: a handler for each row of the method table.
        listen: the address; "0.0.0.0" and "[::]" mean all of this machine's.
        chain_pem: the server's certificate and the CA that issued it.
        private_pem: its key.
        anchors: the *sites* and *people* CAs; nobody else's certificates get through the handshake.
        clock: compared with the callers' certificates on each call.
        gate: refuses identities that are locked or unknown, and certificates that are revoked.
        on_refusal: told of each refused call, for the audit.

    Raises:
        LocalError: the address cannot be listened on, or the service does not fit the table.
        IdentityRefused: certificate and key do not belong together.
    """
    host, port = split_endpoint(listen)
    dispatcher = Dispatcher(service, gate=gate, on_refusal=on_refusal)
    check = PeerCheck(anchors, kinds=_CALLERS, clock=clock or SystemClock())
    listener = GRPCListener(dispatcher, check, anchors)
    listener.renew(chain_pem, private_pem)
    await listener.start(host, port)
    return listener


class GRPCListener:
    """A server that listens. Made by `serve`."""

    def __init__(self, dispatcher: Dispatcher, check: PeerCheck, anchors: Anchors) -> None:
        self._dispatcher = dispatcher
        self._check = check
        self._anchors = anchors
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self._server.add_generic_rpc_handlers((_EveryMethod(self._serve_call),))
        self._certificates: Any = None  # grpc's configuration object, which has no public type
        self._fresh: deque[Any] = deque()  # what gRPC is to put into force at the next handshake
        self._port = 0

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        return self._port

    def renew(self, chain_pem: bytes, private_pem: bytes, anchors: Anchors | None = None) -> None:
        """Show this certificate to whoever connects from now on. Open connections stay as they are.

        Args:
            chain_pem: the server's certificate and the CA that issued it.
            private_pem: its key.
            anchors: whom to believe from now on, also on open connections; as before when None.

        Raises:
            IdentityRefused: certificate and key do not belong together.
        """
        verify_key_matches(chain_pem, private_pem)
        if anchors is not None:
            self._anchors = anchors
            self._check.trust(anchors)
        self._certificates = grpc.ssl_server_certificate_configuration(
            [(private_pem, chain_pem)], self._anchors.pem
        )
        self._fresh.append(self._certificates)

    def _fetch_certificates(self) -> Any:  # noqa: ANN401 - grpc's object
        """Asked by gRPC in each handshake, from its threads. None: nothing has changed.

        Each is given out once. gRPC puts whatever it gets into force, and frees what was there, while
        another handshake may be about to use it (grpcio 1.85). When every handshake got the same object
        again, hundreds at a time crashed the server within a second. A window of under a microsecond is
        left at each renewal: one crash in 2,000 renewals at 600 handshakes a second, measured; at one
        handshake a second and a renewal a month that is one in a hundred thousand years.
        """
        try:
            return self._fresh.popleft()
        except IndexError:
            return None

    async def start(self, host: str, port: int) -> None:
        """Bind and begin. Raises LocalError naming the port."""
        credentials = grpc.dynamic_ssl_server_credentials(
            self._certificates, self._fetch_certificates, require_client_authentication=True
        )
        self._fresh.clear()  # it begins with the newest
        _raise_file_limit()
        address = join_endpoint(host, port)
        try:
            self._port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise LocalError(
                f"cannot listen on {address}: the port is in use, or the address is not this machine's",
                hint=f"see who has it: ss -ltnp 'sport = :{port}'",
            ) from error
        await self._server.start()

    def drop(self, identity_uri: str, reason: FlprovError) -> int:
        """End this identity's open calls with `reason`; how many there were."""
        return self._dispatcher.drop(identity_uri, reason)

    async def stop(self, grace: float = 0.0) -> None:
        """Refuse new calls, end streams and downloads, give unary calls `grace` seconds to finish."""
        self._dispatcher.stop(ServerUnavailable("the server is stopping"))
        await self._server.stop(grace)

    async def _serve_call(self, path: str, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        exchange = _Exchange(context)
        arrival = Arrival(
            path=path,
            peer=_address(context.peer()),
            protocol=_protocol(context),
            identify=lambda: self._identify(context).identity,
            leaf=lambda: self._identify(context),
        )
        try:
            await self._dispatcher.answer(arrival, exchange)
        except CallerGone:
            raise asyncio.CancelledError from None  # what gRPC expects of a call that nobody waits for
        except FlprovError as error:
            code, details, trailers = to_status(error)
            context.set_trailing_metadata((*PROTOCOL_METADATA, *trailers))
            context.set_code(code)
            context.set_details(details)
        finally:
            exchange.close()

    def _identify(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> Leaf:
        return self._check.identify(_leaf(context))


def _raise_file_limit() -> None:
    """As many open files as this process may have at most.

    The usual limit is 1024, which as many silent connections use up: nobody else could connect then, until
    the handshakes have timed out.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _leaf(context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """The caller's certificate as PEM; empty when it came without one."""
    leaves = tuple(context.auth_context().get("x509_pem_cert", ()))
    return bytes(leaves[0]) if leaves else b""


class _EveryMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg,misc,unused-ignore]
    """Answers for each path, so that what does not exist is refused by us and not by gRPC."""

    def __init__(self, serve_call: Callable[[str, Any], Awaitable[None]]) -> None:
        self._serve_call = serve_call

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401 - grpc has no type
        path = handler_call_details.method

        async def behave(_requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
            await self._serve_call(path, context)

        return grpc.stream_stream_rpc_method_handler(behave)


class _Exchange:
    """One call's bytes."""

    def __init__(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        self._context = context
        self._reading: asyncio.Task[Any] | None = None

    async def accept(self) -> None:
        with _gone():
            await self._context.send_initial_metadata(PROTOCOL_METADATA)

    async def read(self, *, ahead: bool = False) -> bytes | None:
        # gRPC cannot take a second read after a cancelled one: the first goes on, the next waits for it.
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._context.read())
        with _gone():
            message = await asyncio.shield(self._reading)
        more = ahead and message is not EOF
        self._reading = asyncio.ensure_future(self._context.read()) if more else None
        return None if message is EOF else cast(bytes, message)

    async def write(self, data: bytes) -> None:
        with _gone():
            await self._context.write(data)

    def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except grpc.aio.BaseError as error:
        raise CallerGone from error


def _protocol(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    name = PROTOCOL_METADATA[0][0]
    found = [value for key, value in context.invocation_metadata() or () if key == name]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else ""


def _address(peer: str) -> str:
    """`ipv4:192.0.2.1:5` as gRPC has it, without the prefix and the escapes."""
    return urllib.parse.unquote(peer.removeprefix("ipv4:").removeprefix("ipv6:"))
