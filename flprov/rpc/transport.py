# SPDX-License-Identifier: Apache-2.0
"""The seam between us and whatever carries our calls: what server, agent and admin are written against.

gRPC over mTLS is one transport, the simulator's in-process network another; both pass
tests/rpc/test_rpc_conformance*.py.

What holds on every transport:

* A handler runs as one task per call. When the caller goes away, cancels or is dropped, the task is
  cancelled; an async generator is closed.
* Messages of one call arrive in the order in which they were sent, and the sender waits while the
  receiver is slow.
* A FlprovError that a handler raises comes out at the caller as the same class with the same message
  and hint; LocalError and its kin come out as RemoteError, since there it is the other side's fault.
  Any other exception comes out as a RemoteError that carries only a reference into the server's log.
* The end of a handler's `requests` says that nothing more comes, not that the caller is content: a caller
  that vanished can look the same for a moment. What must be whole carries its size.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from flprov.errors import FlprovError, LocalError
from flprov.pki import Anchors, Identity, Leaf
from flprov.rpc.methods import METHODS, Method
from flprov.wire import Message

# The most bytes in one message, both ways. What may be larger travels as chunks of a blob.
MESSAGE_LIMIT = 4 << 20


class Call:
    """One call, as its handler sees it."""

    def __init__(self, *, caller: Identity, method: Method, peer: str, leaf: Leaf | None = None) -> None:
        self.caller = caller
        self.leaf = leaf  # the caller's certificate; None on a transport that has none
        self.method = method
        self.peer = peer  # an address, for people to read: nothing may hang on it
        self._open = True
        self._cut: Callable[[FlprovError], object] | None = None

    @property
    def not_after(self) -> datetime | None:
        """The last moment of the caller's certificate; None without one."""
        return self.leaf.not_after if self.leaf else None

    def is_open(self) -> bool:
        """Whether somebody may still be there: false once the call has ended in any way."""
        return self._open

    def cut(self, reason: FlprovError) -> None:
        """End it from outside its handler, also while that waits for a peer that reads nothing.

        The peer is told `reason` behind what is on its way to it.
        """
        if self._cut is not None:
            self._cut(reason)

    def begin(self, cut: Callable[[FlprovError], object]) -> None:
        """Say how to cut it. The transport's to call."""
        self._cut = cut

    def end(self) -> None:
        """Mark the call as over. The transport's to call."""
        self._open = False
        self._cut = None

    def __repr__(self) -> str:
        return f"<Call {self.method.path} by {self.caller} from {self.peer}>"


# Any in these three: the request's type is that of the table's row, which Python cannot express.
UnaryHandler = Callable[[Call, Any], Awaitable[Message]]
DownloadHandler = Callable[[Call, Any], AsyncIterator[Message | bytes]]
StreamHandler = Callable[[Call, AsyncIterator[Any]], AsyncIterator[Message | bytes]]
Handler = UnaryHandler | DownloadHandler | StreamHandler
Service = Mapping[Method, Handler]

# Raises a Refused when this identity may not call at all now: locked, revoked, unknown.
Gate = Callable[[Identity, Leaf | None], None]
# Told of each call that was refused: who (None: not known), the method's path, why.
OnRefusal = Callable[[Identity | None, str, Exception], None]


class Connection(Protocol):
    """The dialling side's end. Opened by the first call; opened again by the next one after a failure.

    Every method raises the FlprovError that the handler raised; ServerUnavailable when the server does
    not answer; IdentityRefused when a certificate, ours or the server's, is the reason. Whoever leaves a
    download or stream early closes it (`contextlib.aclosing`), or else the call stays open until collected.
    A connection belongs to one event loop.
    """

    def prepare(self) -> None:
        """Begin to connect, in the running loop, before the first call, which tells what goes wrong."""
        ...

    async def unary(self, method: Method, request: Message, timeout: float | None = None) -> Any:  # noqa: ANN401
        """The reply to one request. Raises TimedOut after `timeout` seconds."""
        ...

    def download(self, method: Method, request: Message) -> AsyncGenerator[Any, None]:
        """The replies to one request. Closing the iterator cancels the call."""
        ...

    def stream(self, method: Method, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Replies while requests are sent, by one writer. Closing the iterator cancels the call.

        An exception out of `requests` cancels the call and comes out here. When the server ends the
        call first, `requests` is closed.
        """
        ...

    def renew(self, chain_pem: bytes, private_pem: bytes, server_anchors: Anchors | None = None) -> None:
        """Show this certificate in calls from now on. Open calls go on to their end where they are.

        Args:
            chain_pem: our certificate and the CA that issued it.
            private_pem: its key.
            server_anchors: whose servers to believe from now on; as before when None.

        Raises:
            IdentityRefused: certificate and key do not belong together.
        """
        ...

    async def close(self) -> None:
        """Cancel what is open and let go. Closing twice is fine."""
        ...


class Listener(Protocol):
    """The listening side's end."""

    @property
    def port(self) -> int:
        """Where it listens (0 where there are no ports)."""
        ...

    def renew(self, chain_pem: bytes, private_pem: bytes, anchors: Anchors | None = None) -> None:
        """Show this certificate to whoever connects from now on, and believe these CAs."""
        ...

    def drop(self, identity_uri: str, reason: FlprovError) -> int:
        """End this identity's open calls with `reason`; how many there were.

        The call from within which this is called is spared. New calls are the gate's business.
        """
        ...

    async def stop(self, grace: float = 0.0) -> None:
        """Refuse new calls, end streams and downloads, give unary calls `grace` seconds to finish."""
        ...


def verify_service(service: Service) -> None:
    """Nothing, if `service` has a handler for each row of the table and for nothing else.

    Raises:
        LocalError: it names what is missing or too much.
    """
    missing = [method.path for method in METHODS if method not in service]
    surplus = [method.path for method in service if method not in METHODS]
    if missing or surplus:
        parts = [f"no handler for {', '.join(missing)}"] if missing else []
        parts += (
            [f"a handler for {', '.join(surplus)}, which the method table does not have"] if surplus else []
        )
        raise LocalError(f"the service does not fit the method table: {'; '.join(parts)}")
