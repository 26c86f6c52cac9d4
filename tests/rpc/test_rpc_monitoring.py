# SPDX-License-Identifier: Apache-2.0
"""`/metrics` and `/health` over HTTP: what is answered, and that no scraper can hurt the service."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from flprov.rpc import Monitored, monitoring, serve_monitoring


class Service:
    """Counts how often it is asked."""

    made = 0
    well = True
    broken = False

    def metrics(self) -> bytes:
        self.made += 1
        if self.broken:
            raise RuntimeError("no figures")
        return b"flprov_up 1\n"

    def health(self) -> tuple[bool, bytes]:
        return self.well, b'{"ok":true}'


@pytest.fixture
def service():
    return Service()


@contextlib.asynccontextmanager
async def up(service: Service):
    monitored = Monitored(metrics=service.metrics, health=service.health)
    async with serve_monitoring("127.0.0.1:0", monitored) as state:
        yield int(state.listen.rpartition(":")[2])


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost:9464\r\n\r\n".encode()


async def test_metrics_and_health_are_answered(service):
    async with up(service) as port:
        answer = await ask(port, get("/metrics"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert answer.endswith(b"\r\n\r\nflprov_up 1\n")
        assert (await ask(port, get("/metrics?x=1"))).startswith(b"HTTP/1.1 200")
        assert (await ask(port, get("/metrics", "HEAD"))).endswith(b"\r\n\r\n")
        assert b"application/json" in await ask(port, get("/health"))


async def test_health_that_is_not_well_is_503(service):
    service.well = False
    async with up(service) as port:
        assert (await ask(port, get("/health"))).startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), b"404"),
        (get("/../../etc/passwd"), b"404"),
        (get("/metrics", "POST"), b"405"),
        (get("/metrics", "DELETE"), b"405"),
        (b"hello\r\n\r\n", b"400"),
        (b"\xff\xfe / HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
    ],
)
async def test_anything_else_is_refused(service, request_, status):
    async with up(service) as port:
        assert (await ask(port, request_)).split(b" ")[1] == status
    assert service.made == 0


async def test_many_scrapes_make_the_answer_once(service):
    async with up(service) as port:
        for _ in range(20):
            await ask(port, get("/metrics"))
    assert service.made == 1


async def test_huge_request_is_cut_off(service):
    async with up(service) as port:
        assert await ask(port, b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n") == b""
        assert b"flprov_up" in await ask(port, get("/metrics"))


async def test_half_open_connections_are_dropped_in_time(service, monkeypatch):
    monkeypatch.setattr(monitoring, "_PATIENCE", 0.05)
    async with up(service) as port:
        assert await ask(port, b"GET /metrics HTTP/1.1\r\n") == b""


async def test_scraper_that_does_not_read_is_dropped_in_time(service, monkeypatch):
    monkeypatch.setattr(monitoring, "_PATIENCE", 0.2)
    service.metrics = lambda: b"#" * (32 << 20)
    async with up(service) as port:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(0)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
            sock.sendall(get("/metrics"))
            await asyncio.sleep(0.5)
            sock.settimeout(10)
            got = await asyncio.to_thread(drain, sock)
        assert got < 32 << 20


def drain(sock: socket.socket) -> int:
    total = 0
    with contextlib.suppress(ConnectionError):
        while data := sock.recv(1 << 20):
            total += len(data)
    return total


async def test_thousand_silent_connections_do_not_keep_a_scraper_out_for_long(service, monkeypatch):
    monkeypatch.setattr(monitoring, "_PATIENCE", 0.3)
    async with up(service) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(1000)]
        async with asyncio.timeout(10):
            while b"flprov_up" not in await ask(port, get("/metrics")):
                await asyncio.sleep(0.05)
        for _, writer in silent:
            writer.close()


async def test_figures_that_cannot_be_made_are_503_and_no_end(service, caplog):
    service.broken = True
    async with up(service) as port:
        assert (await ask(port, get("/metrics"))).startswith(b"HTTP/1.1 503")
        assert b"no figures" not in await ask(port, get("/metrics"))
    assert "could not be made" in caplog.text


async def test_taken_port_is_a_warning(service, caplog):
    async with up(service) as port:
        monitored = Monitored(metrics=service.metrics, health=service.health)
        async with serve_monitoring(f"127.0.0.1:{port}", monitored) as state:
            assert f"127.0.0.1:{port} cannot be listened on" in state.said
    assert "no metrics" in caplog.text


async def test_off_listens_nowhere(service):
    async with serve_monitoring("off", Monitored(metrics=service.metrics, health=service.health)) as state:
        assert state.said == "off"


async def test_other_addresses_than_loopback_are_warned_of(service, caplog):
    monitored = Monitored(metrics=service.metrics, health=service.health)
    async with serve_monitoring("0.0.0.0:0", monitored):
        pass
    assert "no authentication" in caplog.text
