# SPDX-License-Identifier: Apache-2.0
"""IPv4 and IPv6, several addresses of one name, several endpoints: what is dead costs little, and is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from networks import listen, plain_service
from parties import SERVER, SITE, credential, make_project, project

from flprov import errors
from flprov._base import run_aside
from flprov.pki import issue_identity
from flprov.rpc import Cause, connect, probe
from flprov.rpc import methods as m
from flprov.rpc.addresses import connect_first, resolve
from flprov.wire import pb


@contextlib.contextmanager
def hanging(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that drops every SYN, as a firewall does: the kernel's queue for it is full."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listening, contextlib.ExitStack() as held:
        listening.bind((host, 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(2):
            filler = held.enter_context(socket.socket(family))
            filler.settimeout(0)
            filler.connect_ex((host, port))
        yield port


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port that takes TCP and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_a_handshake_that_breaks_off_does_not_disturb_the_next_dial():
    """The next socket may get the number of the last one, which asyncio has not let go of yet."""
    with silent() as port:
        for _ in range(3):
            found = await probe(f"127.0.0.1:{port}", server_anchors=project().server_anchors, timeout=0.05)
            assert found.cause is Cause.TIMEOUT


async def test_a_server_that_dies_as_it_is_reached_is_tried_again(monkeypatch):
    async def gone(_addresses: object) -> socket.socket:
        return socket.socket()

    monkeypatch.setattr("flprov.rpc.dial.connect_first", gone)
    found = await probe("127.0.0.1:1", server_anchors=project().server_anchors)
    assert found.cause is Cause.UNREACHABLE
    assert isinstance(found.error, errors.ServerUnavailable)


async def test_why_a_host_cannot_be_reached_is_what_the_kernel_says(monkeypatch):
    async def no_route(_self: object, _sock: object, address: object) -> None:
        raise OSError(errno.EHOSTUNREACH, f"Connect call failed {address}")  # asyncio's words

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", no_route)
    found = await probe("127.0.0.1:9", server_anchors=project().server_anchors)
    assert found.cause is Cause.UNREACHABLE
    assert str(found.error) == "127.0.0.1:9 cannot be reached (No route to host)"
    assert "is this machine's network up" in found.error.hint


def refusing() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.asynccontextmanager
async def server(listen_at: str, *names: str):
    own = issue_identity(project().servers, SERVER, names=names, days=1, now=datetime.now(UTC))
    listener = await listen(
        plain_service(), listen=listen_at, chain_pem=own.chain_pem, private_pem=own.private_pem
    )
    try:
        yield listener.port
    finally:
        await listener.stop()


async def call(*endpoints: str, timeout: float = 5.0) -> None:
    own = credential(SITE)
    connection = connect(
        endpoints,
        chain_pem=own.chain_pem,
        private_pem=own.private_pem,
        server_anchors=project().server_anchors,
        connect_timeout=timeout,
    )
    try:
        async for _ in connection.download(m.FETCH_BLOB, pb.BlobRequest()):
            pass
    finally:
        await connection.close()


async def test_ipv6_literal_with_the_address_in_the_certificate():
    async with server("[::1]:0", "::1") as port:
        await call(f"[::1]:{port}")


async def test_ipv4_literal_with_the_address_in_the_certificate():
    async with server("127.0.0.1:0", "127.0.0.1") as port:
        await call(f"127.0.0.1:{port}")


async def test_literal_that_is_not_in_the_certificate_is_named():
    async with server("[::1]:0", "localhost", "2001:db8::7") as port:
        with pytest.raises(errors.IdentityRefused, match=r"is not for ::1; it is for localhost, 2001:db8::7"):
            await call(f"[::1]:{port}")


async def test_one_listener_serves_both_families():
    async with server("[::]:0", "::1", "127.0.0.1", "localhost") as port:
        for host in ("[::1]", "127.0.0.1", "localhost"):
            await call(f"{host}:{port}")


async def test_a_dead_address_of_a_name_does_not_use_up_the_patience():
    with hanging("::1") as dead:
        async with server("127.0.0.1:0", "localhost") as port:
            began = time.monotonic()
            connected = await connect_first(
                [(socket.AF_INET6, ("::1", dead)), (socket.AF_INET, ("127.0.0.1", port))]
            )
            assert time.monotonic() - began < 2.0
            assert connected.getpeername() == ("127.0.0.1", port)
            connected.close()


async def test_the_first_address_that_answers_wins_though_a_later_one_would_too():
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        addresses = [(socket.AF_INET, one.getsockname()) for one in (first, second)]
        for _ in range(20):
            connected = await connect_first(addresses)
            assert connected.getpeername() == first.getsockname()
            connected.close()


async def test_the_most_telling_failure_is_the_one_that_is_told():
    unusable = (socket.AF_INET, ("255.255.255.255", 1))  # broadcast: the kernel forbids it
    refused = (socket.AF_INET, ("127.0.0.1", refusing()))
    with pytest.raises(ConnectionRefusedError):
        await connect_first([unusable, refused])


async def test_names_resolve_in_the_systems_order():
    assert (socket.AF_INET, ("127.0.0.1", 7)) in await resolve("localhost", 7)
    with pytest.raises(OSError, match="not known"):
        await resolve("no-such-host.invalid", 7)


async def test_blocking_work_that_never_returns_holds_up_nobody():
    ours, theirs = socket.socketpair()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await run_aside(lambda: ours.recv(1))
    theirs.close()  # lets the thread go
    ours.close()


async def test_what_blocking_work_raises_is_raised_here():
    with pytest.raises(ZeroDivisionError):
        await run_aside(lambda: 1 // 0)


async def test_a_second_endpoint_is_used_when_nothing_listens_at_the_first(caplog):
    caplog.set_level(logging.INFO)
    dead = refusing()
    async with server("127.0.0.1:0", "127.0.0.1") as port:
        await call(f"127.0.0.1:{dead}", f"127.0.0.1:{port}")
    assert f"nothing listens at 127.0.0.1:{dead}; trying the next endpoint" in caplog.text


@pytest.mark.parametrize("trap", [hanging, silent])
async def test_a_second_endpoint_is_used_when_the_first_hangs_and_that_is_bounded(trap, caplog):
    caplog.set_level(logging.INFO)
    with trap() as dead:
        async with server("127.0.0.1:0", "127.0.0.1") as port:
            began = time.monotonic()
            await call(f"127.0.0.1:{dead}", f"127.0.0.1:{port}", timeout=0.4)
            assert 0.4 <= time.monotonic() - began < 3.0
    assert f"127.0.0.1:{dead} does not answer: no " in caplog.text
    assert "within 0.4 seconds; trying the next endpoint" in caplog.text


async def test_a_second_endpoint_is_used_when_the_first_is_another_projects():
    own = make_project().issue(SERVER)
    other = await listen(plain_service(), chain_pem=own.chain_pem, private_pem=own.private_pem)
    try:
        async with server("127.0.0.1:0", "127.0.0.1") as port:
            await call(f"127.0.0.1:{other.port}", f"127.0.0.1:{port}")
    finally:
        await other.stop()


async def test_every_endpoint_is_named_when_none_works():
    with silent() as dead:
        gone = refusing()
        with pytest.raises(errors.ServerUnavailable) as caught:
            await call(f"127.0.0.1:{dead}", f"127.0.0.1:{gone}", timeout=0.3)
    assert "no endpoint works: " in str(caught.value)
    assert f"127.0.0.1:{dead} does not answer" in str(caught.value)
    assert f"nothing listens at 127.0.0.1:{gone}" in str(caught.value)


async def test_without_a_certificate_a_probe_ends_with_the_servers():
    async with server("127.0.0.1:0", "127.0.0.1") as port:
        found = await probe(f"127.0.0.1:{port}", server_anchors=project().server_anchors)
        blind = await probe(f"127.0.0.1:{port}")
    assert (found.cause, found.server, len(found.steps)) == (Cause.FINE, SERVER, 3)
    assert (blind.cause, blind.server, len(blind.steps)) == (Cause.FINE, None, 2)
