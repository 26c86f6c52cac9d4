# SPDX-License-Identifier: Apache-2.0
"""The listening side: TLS versions, renewal, expiry of a caller mid-connection, ports, silent clients."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta

import pytest
from networks import dial, listen, plain_service
from parties import LEAD, SERVER, SITE, credential, project
from raw import RawCaller

from flprov import errors
from flprov.rpc import methods as m
from flprov.rpc import probe
from flprov.rpc.dial import tls_context
from flprov.rpc.grpc_settings import grpc
from flprov.testing.clock import FakeClock
from flprov.wire import pb


@contextlib.asynccontextmanager
async def listening(**kwargs):
    listener = await listen(plain_service(), **kwargs)
    try:
        yield listener
    finally:
        await listener.stop()


def handshake(port: int, context: ssl.SSLContext) -> tuple[str, bytes]:
    """The TLS version agreed on and the first bytes after it."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.version(), secure.recv(9)


def context(version: ssl.TLSVersion) -> ssl.SSLContext:
    own = credential(SITE)
    found = tls_context(own.chain_pem, own.private_pem, project().server_anchors.pem)
    found.minimum_version = found.maximum_version = version
    return found


async def test_tls_1_3_is_spoken():
    async with listening() as listener:
        version, first = await asyncio.to_thread(handshake, listener.port, context(ssl.TLSVersion.TLSv1_3))
    assert (version, first[3]) == ("TLSv1.3", 4)


async def test_tls_1_2_is_refused():
    async with listening() as listener:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.to_thread(handshake, listener.port, context(ssl.TLSVersion.TLSv1_2))


async def test_plain_http2_is_refused():
    async with listening() as listener, grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/flprov.v1.Admin/Status")(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_certificate_that_expires_while_connected_is_refused_on_the_next_call():
    clock = FakeClock(datetime.now(UTC))
    own = project().issue(SITE, days=2)
    refusals = []
    async with (
        listening(clock=clock, on_refusal=lambda *row: refusals.append(row)) as listener,
        RawCaller(listener.port, own) as raw,
    ):
        assert (await raw.call("/flprov.v1.Site/SendLogs", b"")).code is grpc.StatusCode.OK
        clock.advance(timedelta(days=2, minutes=1).total_seconds())
        answer = await raw.call("/flprov.v1.Site/SendLogs", b"")
        assert answer.code is grpc.StatusCode.UNAUTHENTICATED
        assert "expired" in answer.details
        clock.jump(-timedelta(days=1).total_seconds())  # an operator sets the clock right
        assert (await raw.call("/flprov.v1.Site/SendLogs", b"")).code is grpc.StatusCode.OK
    assert [(who, type(error)) for who, _, error in refusals] == [(None, errors.IdentityRefused)]


async def test_renewed_server_certificate_is_shown_to_new_connections():
    async with listening() as listener:
        old = dial(listener.port, SITE)
        await anext(old.download(m.FETCH_BLOB, pb.BlobRequest()))
        renewed = project().issue(SERVER, days=7)
        listener.renew(renewed.chain_pem, renewed.private_pem)
        seen = await asyncio.to_thread(_shown, listener.port)
        assert seen == ssl.PEM_cert_to_DER_cert(renewed.certificate_pem.decode())
        await anext(old.download(m.FETCH_BLOB, pb.BlobRequest()))
        await old.close()


def _shown(port: int) -> bytes:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context(ssl.TLSVersion.TLSv1_3).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return secure.getpeercert(binary_form=True)


async def test_renewal_with_the_wrong_key_is_refused_and_changes_nothing():
    async with listening() as listener:
        with pytest.raises(errors.IdentityRefused):
            listener.renew(project().issue(SERVER).chain_pem, project().issue(SERVER).private_pem)
        assert (await asyncio.to_thread(handshake, listener.port, context(ssl.TLSVersion.TLSv1_3)))[1]


async def test_second_server_on_the_port_fails_and_names_it():
    async with listening() as listener:
        with pytest.raises(errors.LocalError, match=f":{listener.port}") as caught:
            await listen(plain_service(), listen=f"127.0.0.1:{listener.port}")
        assert "ss -ltnp" in caught.value.hint


async def test_address_of_another_machine_is_a_local_error():
    with pytest.raises(errors.LocalError, match=r"192\.0\.2\.1"):
        await listen(plain_service(), listen="192.0.2.1:0")


@pytest.mark.parametrize(
    "text", ["", "8443", "host", "host:", "host:70000", "a b:1", "[::1]", "x/y:1", "::1:5"]
)
async def test_address_that_is_none_is_misuse(text):
    with pytest.raises(errors.Misuse, match="is not an address"):
        await listen(plain_service(), listen=text)


async def test_port_is_free_again_after_stop():
    async with listening() as listener:
        port = listener.port
    async with listening(listen=f"127.0.0.1:{port}") as listener:
        assert listener.port == port


@pytest.mark.slow
async def test_silent_clients_are_hung_up_on():
    """Before TLS, and after TLS without a word of HTTP/2."""

    def wait_for_end(secure: bool) -> float:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", listener.port), timeout=30) as sock:
            if secure:
                sock = context(ssl.TLSVersion.TLSv1_3).wrap_socket(sock, server_hostname="localhost")
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while sock.recv(4096):
                    pass
            sock.close()
        return time.monotonic() - began

    async with listening() as listener:
        waits = [asyncio.to_thread(wait_for_end, secure) for secure in (False, True)]
        assert max(await asyncio.gather(*waits)) < 20


async def test_probe_finds_a_server_fine():
    async with listening() as listener:
        own = credential(LEAD)
        found = await probe(
            f"localhost:{listener.port}",
            chain_pem=own.chain_pem,
            private_pem=own.private_pem,
            server_anchors=project().server_anchors,
        )
    assert (found.error, found.server) == (None, SERVER)
