# SPDX-License-Identifier: Apache-2.0
"""HTTP proxies for tests: one that says what it is told to, and one that really forwards."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class SeenProxy:
    """Where it listens, and each request's head that it was sent."""

    port: int = 0
    requests: list[str] = field(default_factory=list)

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def saying(answer: bytes | None, *, hold: bool = False) -> AsyncIterator[SeenProxy]:
    """Answers each CONNECT with these bytes; None: with nothing. `hold` keeps the connection open."""
    seen = SeenProxy()

    async def serve(near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        seen.requests.append(await _read_head(near))
        await loop.sock_sendall(near, answer or b"")
        if hold:
            await loop.sock_recv(near, 1)

    async with _listening(serve, seen):
        yield seen


@contextlib.asynccontextmanager
async def forwarding(
    *, login: str | None = None, port: int | None = None, delay: float = 0.0
) -> AsyncIterator[SeenProxy]:
    """A proxy that works; with `login` ("user:password") for those only who give it.

    `port` is on this machine: where every tunnel leads, whatever name was asked for. `delay` is what opening
    a tunnel takes, in seconds.
    """
    seen = SeenProxy()
    wanted = login and base64.b64encode(login.encode()).decode()

    async def serve(near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        head = await _read_head(near)
        seen.requests.append(head)
        if wanted and f"Proxy-Authorization: Basic {wanted}\r\n" not in head:
            await loop.sock_sendall(near, b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
            return
        asked = head.split()[1].rpartition(":")[2]
        with socket.socket() as far:
            far.settimeout(0)
            await loop.sock_connect(far, ("127.0.0.1", port or int(asked)))
            await asyncio.sleep(delay)
            await loop.sock_sendall(near, b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
            await asyncio.gather(_pipe(near, far), _pipe(far, near))

    async with _listening(serve, seen):
        yield seen


async def _read_head(near: socket.socket) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await asyncio.get_running_loop().sock_recv(near, 4096)
        if not data:
            raise ConnectionError("hung up")
        head += data
    return head.decode()


async def _pipe(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, 1 << 16):
        await loop.sock_sendall(sink, data)
    sink.shutdown(socket.SHUT_WR)


@contextlib.asynccontextmanager
async def _listening(
    serve: Callable[[socket.socket], Awaitable[None]], seen: SeenProxy
) -> AsyncIterator[None]:
    tasks: set[asyncio.Task[None]] = set()

    async def one(near: socket.socket) -> None:
        near.settimeout(0)
        with near, contextlib.suppress(OSError):
            await serve(near)

    async def accept() -> None:
        while True:
            near, _ = await asyncio.get_running_loop().sock_accept(listening)
            tasks.add(asyncio.create_task(one(near)))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        seen.port = listening.getsockname()[1]
        tasks.add(asyncio.create_task(accept()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
