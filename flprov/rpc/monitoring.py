# SPDX-License-Identifier: Apache-2.0
"""`/metrics` and `/health` over plain HTTP, for monitoring on the same machine.

A few lines of HTTP/1.1 instead of a web server: GET and HEAD of two paths, one answer per connection. It
runs in the service's own event loop, so it is stingy: few connections at once, small requests, short
waits, and an answer that is made once a second at most, however many ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from flprov.config import OFF
from flprov.rpc.endpoints import join_endpoint, split_endpoint

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 16
_MOST_REQUEST = 8 << 10  # bytes; what Prometheus sends has 300
_PATIENCE = 5.0  # seconds for a request to come, and for its answer to be taken
_FRESH = 1.0  # seconds for which an answer is given again

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What is asked for."""

    metrics: Callable[[], bytes]  # in Prometheus' text format
    health: Callable[[], tuple[bool, bytes]]  # whether all is well, and a JSON document


@dataclass(kw_only=True)
class MonitoringState:
    """Where it listens, or why it does not; for status."""

    listen: str = ""
    problem: str = ""

    @property
    def said(self) -> str:
        """`http://127.0.0.1:9464/metrics`, or why there is nothing."""
        return self.problem or (f"http://{self.listen}/metrics" if self.listen else OFF)


@contextlib.asynccontextmanager
async def serve_monitoring(listen: str, monitored: Monitored) -> AsyncIterator[MonitoringState]:
    """Answer at `listen` while inside. A port that is taken is a warning, not an end."""
    if listen == OFF:
        yield MonitoringState()
        return
    host, port = split_endpoint(listen)
    local = ipaddress.ip_address(host).is_loopback
    site = _Site(monitored, local=local)
    try:
        server = await asyncio.start_server(site.serve, host, port, limit=_MOST_REQUEST, backlog=64)
    except OSError as error:
        problem = (
            f"no metrics: {listen} cannot be listened on ({error.strerror or error});"
            f" choose another address with `metrics:`, or {OFF}"
        )
        logger.warning("%s", problem)
        yield MonitoringState(problem=problem)
        return
    bound = join_endpoint(host, server.sockets[0].getsockname()[1])
    if not local:
        logger.warning("metrics are served at %s to whoever asks: there is no authentication", bound)
    try:
        yield MonitoringState(listen=bound)
    finally:
        server.close()
        await site.close()


class _Site:
    """The connections."""

    def __init__(self, monitored: Monitored, *, local: bool) -> None:
        self._monitored = monitored
        self._local = local  # for this machine only
        self._open: set[asyncio.Task[None]] = set()
        self._made: dict[str, tuple[float, tuple[int, str, bytes]]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= _MOST_AT_ONCE:
            writer.transport.abort()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._answer(reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._open.discard(task)
            writer.close()

    async def close(self) -> None:
        """End what is open."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        method, path = _parse(request)
        if method and self._local and not _is_local(request):  # a page in a browser, whose name points here
            status, kind, body = "421 Misdirected Request", "text/plain", b"ask for localhost\n"
        else:
            status, kind, body = self._find(method, path)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + (b"" if method == "HEAD" else body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _find(self, method: str, path: str) -> tuple[str, str, bytes]:
        if not method:
            return "400 Bad Request", "text/plain", b"not an HTTP request\n"
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", "text/plain", b"GET only\n"
        if path not in ("/metrics", "/health"):
            return "404 Not Found", "text/plain", b"there are /metrics and /health\n"
        code, kind, body = self._fresh(path)
        return ("200 OK" if code == 200 else f"{code} Service Unavailable"), kind, body

    def _fresh(self, path: str) -> tuple[int, str, bytes]:
        now = asyncio.get_running_loop().time()
        made = self._made.get(path)
        if made is None or now - made[0] > _FRESH:
            made = self._made[path] = now, self._make(path)
        return made[1]

    def _make(self, path: str) -> tuple[int, str, bytes]:
        try:
            if path == "/metrics":
                return 200, _TEXT, self._monitored.metrics()
            well, body = self._monitored.health()
        except Exception:  # the outermost loop of this connection; the service itself is not to suffer
            logger.exception("%s could not be made", path)
            return 503, "text/plain", b"internal error\n"
        return (200 if well else 503), _JSON, body


def _is_local(request: bytes) -> bool:
    """Whether it names this machine by address or as `localhost`, or not at all: no other name is its."""
    lines = [line.partition(b":") for line in request.split(b"\r\n")[1:]]
    hosts = [value.strip().decode("latin-1") for name, _, value in lines if name.strip().lower() == b"host"]
    return all(_is_local_name(host) for host in hosts)


def _is_local_name(host: str) -> bool:
    name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _parse(request: bytes) -> tuple[str, str]:
    """Method and path of a request; nothing when it is none."""
    words = request.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not request.isascii():
        return "", ""
    return words[0].decode(), words[1].decode().partition("?")[0]
