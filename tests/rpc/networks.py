# SPDX-License-Identifier: Apache-2.0
"""The transports under test, behind one face: gRPC over mTLS, in-process, in-process across threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from parties import SERVER, credential, project

from flprov.errors import FlprovError
from flprov.pki import Identity
from flprov.rpc import METHODS, Call, Connection, Handler, Listener, Method, Service, Shape, connect, serve
from flprov.testing.inprocess import InProcessNetwork


async def _unary(call: Call, request: Any) -> Any:
    return call.method.reply()


async def _download(call: Call, request: Any) -> AsyncIterator[Any]:
    yield call.method.reply()


async def _stream(call: Call, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for _ in requests:
        yield call.method.reply()


_PLAIN: Mapping[Shape, Handler] = {Shape.UNARY: _unary, Shape.DOWNLOAD: _download, Shape.STREAM: _stream}


def plain_service(handlers: Mapping[Method, Handler] | None = None) -> Service:
    """Each method of the table, answered with an empty reply unless `handlers` has better."""
    return {method: _PLAIN[method.shape] for method in METHODS} | dict(handlers or {})


@dataclass(kw_only=True)
class Network:
    """A listener, and how to reach it."""

    listener: Listener
    connect_as: Callable[[Identity], Connection]
    run: Callable[[Coroutine[Any, Any, Any]], Any]  # where the listener's loop is
    refusals: list[tuple[Identity | None, str, Exception]]
    connections: list[Connection] = field(default_factory=list)

    def connect(self, identity: Identity) -> Connection:
        connection = self.connect_as(identity)
        self.connections.append(connection)
        return connection

    async def drop(self, identity: Identity, reason: FlprovError) -> int:
        async def drop() -> int:
            return self.listener.drop(identity.uri, reason)

        return await self.run(drop())

    async def stop(self, grace: float = 0.0) -> None:
        await self.run(self.listener.stop(grace))

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()
        await self.stop()


def dial(port: int, identity: Identity, **kwargs: Any) -> Connection:
    """A real connection as `identity`."""
    own = credential(identity)
    return connect(
        [f"127.0.0.1:{port}"],
        chain_pem=own.chain_pem,
        private_pem=own.private_pem,
        server_anchors=project().server_anchors,
        **kwargs,
    )


async def listen(service: Service, **kwargs: Any) -> Any:
    """A real listener on a free port."""
    own = credential(SERVER)
    options = {
        "listen": "127.0.0.1:0",
        "anchors": project().caller_anchors,
        "chain_pem": own.chain_pem,
        "private_pem": own.private_pem,
    }
    return await serve(service, **(options | kwargs))


@contextlib.asynccontextmanager
async def grpc_network(service: Service, **kwargs: Any) -> AsyncIterator[Network]:
    refusals: list[Any] = []
    listener = await listen(service, on_refusal=lambda *row: refusals.append(row), **kwargs)
    network = Network(
        listener=listener,
        connect_as=lambda identity: dial(listener.port, identity),
        run=lambda coroutine: coroutine,
        refusals=refusals,
    )
    try:
        yield network
    finally:
        await network.close()


@contextlib.asynccontextmanager
async def inprocess_network(service: Service, **kwargs: Any) -> AsyncIterator[Network]:
    refusals: list[Any] = []
    listener = InProcessNetwork(service, on_refusal=lambda *row: refusals.append(row), **kwargs)
    network = Network(
        listener=listener,
        connect_as=listener.connect,
        run=lambda coroutine: coroutine,
        refusals=refusals,
    )
    try:
        yield network
    finally:
        await network.close()


@contextlib.asynccontextmanager
async def threaded_network(service: Service, **kwargs: Any) -> AsyncIterator[Network]:
    """As the simulator has it: the server's loop in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, loop))

    async def make() -> InProcessNetwork:
        return InProcessNetwork(service, on_refusal=lambda *row: refusals.append(row), **kwargs)

    refusals: list[Any] = []
    try:
        listener = await run(make())
        network = Network(listener=listener, connect_as=listener.connect, run=run, refusals=refusals)
        try:
            yield network
        finally:
            await network.close()
    finally:
        await run(loop.shutdown_asyncgens())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


NETWORKS = {"grpc": grpc_network, "inprocess": inprocess_network, "threads": threaded_network}
