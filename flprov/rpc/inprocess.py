# SPDX-License-Identifier: Apache-2.0
"""A network inside one process: the same dispatcher, table, gate and errors as over gRPC, without sockets.

Handlers run in the loop in which the network was made. A connection may be used from another loop in
another thread; one connection belongs to one loop, as over gRPC. Messages are copied through their
bytes, so that no two parties ever share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from flprov.errors import FlprovError, ServerUnavailable
from flprov.pki import Anchors, Identity
from flprov.rpc.calls import CallCancelled, DialledConnection
from flprov.rpc.crossing import from_report, to_report
from flprov.rpc.dispatch import Arrival, CallerGone, Dispatcher
from flprov.rpc.methods import Method, Shape
from flprov.rpc.transport import Connection, Gate, OnRefusal, Service
from flprov.wire import PROTOCOL

_WINDOW = 8  # messages under way in one direction before the sender waits

_Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]


class InProcessNetwork:
    """Listens for connections from within this process. Make it in the loop that shall serve.

    Raises:
        LocalError: the service does not fit the method table.
    """

    port = 0

    def __init__(
        self, service: Service, *, gate: Gate | None = None, on_refusal: OnRefusal | None = None
    ) -> None:
        self._dispatcher = Dispatcher(service, gate=gate, on_refusal=on_refusal)
        self._loop = asyncio.get_running_loop()
        self._serving: dict[asyncio.Task[None], Method] = {}

    def connect(self, identity: Identity) -> Connection:
        """A connection as `identity`: nothing is verified, since who makes the network decides."""
        return DialledConnection(_Dialler(self, identity))

    def drop(self, identity_uri: str, reason: FlprovError) -> int:
        """End this identity's open calls with `reason`; how many. For the serving loop."""
        return self._dispatcher.drop(identity_uri, reason)

    def renew(self, chain_pem: bytes, private_pem: bytes, anchors: Anchors | None = None) -> None:
        """Nothing: here nobody shows a certificate."""

    async def stop(self, grace: float = 0.0) -> None:
        """Refuse new calls, end streams and downloads, give unary calls `grace` seconds to finish."""
        self._dispatcher.stop(ServerUnavailable("the server is stopping"))
        unary = [task for task, method in self._serving.items() if method.shape is Shape.UNARY]
        if unary:
            await asyncio.wait(unary, timeout=grace)
            for task in unary:
                task.cancel()
        if self._serving:
            await asyncio.wait(tuple(self._serving))

    def begin(self, call: _Call) -> None:
        """Serve a call; from any thread. Raises ServerUnavailable when the loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self._begin, call)
        except RuntimeError as error:
            raise ServerUnavailable("the server has ended") from error

    def _begin(self, call: _Call) -> None:
        task = self._loop.create_task(call.serve(self._dispatcher), name=f"serve {call.method.path}")
        self._serving[task] = call.method
        task.add_done_callback(lambda done: self._serving.pop(done, None))
        call.serving(task)

    def end(self, task: asyncio.Task[None]) -> None:
        """Cancel a call that is served; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone, and the call with it
            self._loop.call_soon_threadsafe(task.cancel)


class _Dialler:
    """Starts calls as one identity."""

    def __init__(self, network: InProcessNetwork, identity: Identity) -> None:
        self._network = network
        self._identity = identity
        self._open: set[_Call] = set()
        self._closed = False

    def prepare(self) -> None:
        pass  # there is nothing to connect

    async def start(self, method: Method) -> _Call:
        if self._closed:
            raise ServerUnavailable("this connection was closed here")
        call = _Call(self._network, self._identity, method, on_end=self._open.discard)
        self._network.begin(call)
        self._open.add(call)
        return call

    def renew(self, chain_pem: bytes, private_pem: bytes, server_anchors: Anchors | None = None) -> None:
        """Nothing: here nobody shows a certificate."""

    async def close(self) -> None:
        self._closed = True
        for call in tuple(self._open):
            call.cancel()


class _Call:
    """One call, both halves: the dialler's (send, receive, cancel) and the server's (read, write)."""

    def __init__(
        self,
        network: InProcessNetwork,
        identity: Identity,
        method: Method,
        *,
        on_end: Callable[[_Call], None],
    ) -> None:
        self.method = method
        self._network = network
        self._identity = identity
        self._on_end = on_end
        self._requests = _Pipe()
        self._replies = _Pipe()
        self._lock = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False

    async def send(self, data: bytes) -> bool:
        return await self._requests.put(data)

    async def finish_sending(self) -> None:
        self._requests.end()

    async def receive(self) -> bytes | None:
        return await self._replies.get()

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            task = self._task
        self._replies.abandon(CallCancelled())
        if task is not None:
            self._network.end(task)
        self._on_end(self)

    def serving(self, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._task = task
            cancelled = self._cancelled
        if cancelled:
            task.cancel()

    async def serve(self, dispatcher: Dispatcher) -> None:
        arrival = Arrival(
            path=self.method.path,
            peer="in-process",
            protocol=str(PROTOCOL),
            identify=lambda: self._identity,
        )
        outcome: FlprovError | None = ServerUnavailable("the server has ended")
        try:
            await dispatcher.answer(arrival, self)
            outcome = None
        except CallerGone:
            outcome = None
        except FlprovError as error:
            outcome = from_report(to_report(error))
        finally:
            self._requests.abandon(CallCancelled())
            self._replies.end(outcome)

    async def accept(self) -> None:
        """Nothing to tell: the caller speaks the same protocol."""

    async def read(self, *, ahead: bool = False) -> bytes | None:  # noqa: ARG002
        return await self._requests.get()

    async def write(self, data: bytes) -> None:
        if not await self._replies.put(data):
            raise CallerGone


class _Pipe:
    """Messages in one direction: one writer, one reader, each in its own loop and thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[bytes] = deque()
        self._waiting: list[_Waiter] = []
        self._ended = False
        self._error: Exception | None = None
        self._abandoned: Exception | None = None

    async def put(self, data: bytes) -> bool:
        """Send, or wait until there is room; False when nobody reads any more."""
        while True:
            with self._lock:
                if self._abandoned is not None:
                    return False
                if len(self._messages) < _WINDOW:
                    self._messages.append(data)
                    self._wake()
                    return True
                waiter = self._park()
            await waiter

    async def get(self) -> bytes | None:
        """The next message; None at the end. Raises what the pipe was ended with. May be cancelled."""
        while True:
            with self._lock:
                if self._abandoned is not None:
                    raise self._abandoned
                if self._messages:
                    self._wake()
                    return self._messages.popleft()
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return None
                waiter = self._park()
            await waiter

    def end(self, error: Exception | None = None) -> None:
        """The writer's last word, after the messages that are under way."""
        with self._lock:
            self._ended, self._error = True, error
            self._wake()

    def abandon(self, reason: Exception) -> None:
        """The reader's: nothing more is taken, whoever writes or reads is woken."""
        with self._lock:
            self._abandoned = reason
            self._wake()

    def _park(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiting.append((loop, waiter))
        return waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        here = _running_loop()
        for loop, waiter in waiting:
            if loop is here:
                _resolve(waiter)
                continue
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(_resolve, waiter)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
