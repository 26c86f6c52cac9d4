# SPDX-License-Identifier: Apache-2.0
"""Each way in which dialling can fail has its name, its class of error and its words."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from forgery import SERVER as SERVER_AUTH
from forgery import forge
from networks import dial, listen, plain_service
from parties import LEAD, NAMES, SERVER, SITE, credential, make_project, project

from flprov import errors
from flprov.pki import Kind, issue_identity
from flprov.rpc import Cause, connect, probe
from flprov.rpc import methods as m
from flprov.wire import pb

HOST = "127.0.0.1"


async def dialled(port: int, *, own=None, host: str = HOST, timeout: float = 5.0):
    own = own or credential(SITE)
    return await probe(
        f"{host}:{port}",
        chain_pem=own.chain_pem,
        private_pem=own.private_pem,
        server_anchors=project().server_anchors,
        timeout=timeout,
    )


@contextlib.asynccontextmanager
async def server(answer, context: ssl.SSLContext | None = None):
    """A TCP or TLS server that is not ours, in a thread; `answer(socket)` for each connection."""

    def serve_one(plain: socket.socket) -> None:
        plain.settimeout(10)
        with plain, contextlib.suppress(OSError):
            if context is None:
                answer(plain)
                return
            with context.wrap_socket(plain, server_side=True) as secure:
                answer(secure)

    def run() -> None:
        with contextlib.suppress(OSError):
            while True:
                serve_one(listening.accept()[0])

    listening = socket.create_server((HOST, 0))
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        await asyncio.to_thread(thread.join)


def hang_up(connected):
    return


def greet_in_http1(connected):
    connected.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    connected.recv(100)


def stay_silent(connected):
    while connected.recv(100):
        pass


def tls(own, tmp_path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    path = tmp_path / "server.pem"
    path.write_bytes(own.chain_pem + own.private_pem)
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(path)
    found.minimum_version = found.maximum_version = version
    found.set_alpn_protocols(["h2"])
    return found


async def test_name_that_does_not_resolve():
    found = await dialled(1, host="no-such-host.invalid")
    assert found.cause is Cause.NAME
    assert isinstance(found.error, errors.ServerUnavailable)
    assert "no-such-host.invalid" in str(found.error)


async def test_name_that_is_none():
    assert (await dialled(1, host="a..b")).cause is Cause.NAME


async def test_nothing_listens():
    async with server(hang_up) as port:
        pass
    found = await dialled(port)
    assert found.cause is Cause.NOTHING_LISTENS
    assert str(found.error) == f"nothing listens at {HOST}:{port}"


async def test_server_that_never_answers_times_out_and_the_stage_is_named():
    async with server(stay_silent) as port:
        found = await dialled(port, timeout=0.3)
    assert found.cause is Cause.TIMEOUT
    assert "no TLS handshake within 0.3 seconds" in str(found.error)


async def test_plain_text_is_not_tls():
    async with server(greet_in_http1) as port:
        found = await dialled(port)
    assert found.cause is Cause.NOT_TLS
    assert "does not speak TLS" in str(found.error)


async def test_hanging_up_at_once_is_not_tls():
    async with server(hang_up) as port:
        found = await dialled(port)
    assert found.cause is Cause.NOT_TLS
    assert isinstance(found.error, errors.ServerUnavailable)


async def test_old_tls_is_named(tmp_path):
    context = tls(credential(SERVER), tmp_path, ssl.TLSVersion.TLSv1_2)
    async with server(stay_silent, context) as port:
        found = await dialled(port)
    assert found.cause is Cause.TLS_VERSION
    assert "does not speak TLS 1.3" in str(found.error)


async def test_our_certificate_but_no_http2(tmp_path):
    async with server(greet_in_http1, tls(credential(SERVER), tmp_path)) as port:
        found = await dialled(port)
    assert found.cause is Cause.NOT_OURS


BAD_SERVERS = {
    "expired": (
        lambda: project().issue(SERVER, now=datetime.now(UTC) - timedelta(days=9), days=1),
        Cause.EXPIRED,
        rf"{SERVER} expired on ",
    ),
    "not yet valid": (
        lambda: project().issue(SERVER, now=datetime.now(UTC) + timedelta(days=9), days=1),
        Cause.NOT_YET_VALID,
        rf"{SERVER} is not valid before ",
    ),
    "another CA": (lambda: make_project().issue(SERVER), Cause.OTHER_CA, "is issued by "),
    "an interceptor": (
        lambda: forge(None, "https://proxy.example/", usage=SERVER_AUTH, hosts=NAMES),
        Cause.OTHER_CA,
        "is signed by itself",
    ),
    "another name": (
        lambda: issue_identity(
            project().servers, SERVER, names=("fl.example.org", "192.0.2.7"), days=1, now=datetime.now(UTC)
        ),
        Cause.WRONG_NAME,
        r"is not for 127\.0\.0\.1; it is for fl\.example\.org, 192\.0\.2\.7",
    ),
    "a site": (lambda: credential(SITE), Cause.OTHER_CA, "sites CA"),
    "a site, signed by the servers CA": (
        lambda: forge(project().servers, SITE.uri, usage=SERVER_AUTH, hosts=NAMES),
        Cause.NOT_A_SERVER,
        "may not issue a site",
    ),
    "without an extended key usage": (
        lambda: forge(project().servers, SERVER.uri, usage=None, hosts=NAMES),
        Cause.NOT_A_SERVER,
        "has no extendedKeyUsage",
    ),
    "with the CA bit": (
        lambda: forge(project().servers, SERVER.uri, usage=SERVER_AUTH, hosts=NAMES, is_ca=True),
        None,  # OpenSSL or our rule; which of the two does not matter
        "CA",
    ),
    "of another trust domain": (
        lambda: forge(project().servers, "spiffe://elsewhere/server/s", usage=SERVER_AUTH, hosts=NAMES),
        Cause.NOT_A_SERVER,
        "elsewhere",
    ),
}


@pytest.mark.parametrize("villain", BAD_SERVERS)
async def test_bad_server_certificate_is_named_and_no_call_reaches_it(villain, tmp_path):
    make, cause, words = BAD_SERVERS[villain]
    got = []

    def listen_in(connected):
        connected.sendall(b"\0\0\0\4\0\0\0\0\0")  # SETTINGS, as an HTTP/2 server sends
        got.append(connected.recv(100))

    async with server(listen_in, tls(make(), tmp_path)) as port:
        found = await dialled(port)
        assert isinstance(found.error, errors.IdentityRefused)
        assert found.error.hint is None or "\n" not in found.error.hint
        with pytest.raises(errors.IdentityRefused, match=words):
            await dial(port, SITE).download(m.FETCH_BLOB, pb.BlobRequest()).__anext__()
    assert found.cause is cause or cause is None
    assert f"{HOST}:{port}: " in str(found.error)
    assert b"".join(got) == b""


async def test_own_expired_certificate_is_named_without_dialling():
    own = project().issue(SITE, now=datetime.now(UTC) - timedelta(days=9), days=1)
    found = await dialled(1, own=own)
    assert found.cause is Cause.OWN_EXPIRED
    assert f"the certificate of {SITE} expired on " in str(found.error)


async def test_own_certificate_of_tomorrow_is_named():
    own = project().issue(SITE, now=datetime.now(UTC) + timedelta(days=9), days=1)
    found = await dialled(1, own=own)
    assert found.cause is Cause.OWN_NOT_YET_VALID
    assert "clock" in found.error.hint


@pytest.mark.parametrize("kind", [Kind.SITE, Kind.SERVER])
async def test_own_certificate_that_the_server_does_not_take(kind):
    own = make_project().issue(SITE) if kind is Kind.SITE else credential(SERVER)
    listener = await listen(plain_service())
    try:
        found = await dialled(listener.port, own=own)
        connection = connect(
            [f"{HOST}:{listener.port}"],
            chain_pem=own.chain_pem,
            private_pem=own.private_pem,
            server_anchors=project().server_anchors,
        )
        with pytest.raises(errors.IdentityRefused, match="does not take the certificate of"):
            await connection.unary(m.STATUS, pb.Query())
        await connection.close()
    finally:
        await listener.stop()
    assert found.cause is Cause.OWN_REFUSED


async def test_own_certificate_and_key_must_belong_together():
    with pytest.raises(errors.IdentityRefused):
        connect(
            [f"{HOST}:1"],
            chain_pem=credential(SITE).chain_pem,
            private_pem=credential(LEAD).private_pem,
            server_anchors=project().server_anchors,
        )
