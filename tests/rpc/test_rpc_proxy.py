# SPDX-License-Identifier: Apache-2.0
"""Through an HTTP proxy: calls, every way in which it can fail, and that nobody reads its password."""

from __future__ import annotations

import asyncio
import base64
import logging
import traceback
from datetime import UTC, datetime

import grpc
import pytest
from networks import listen, plain_service
from parties import SERVER, SITE, credential, make_project, project
from proxies import forwarding, saying

from flprov import errors
from flprov.pki import issue_identity
from flprov.project import DIRECT, Route, parse_proxy
from flprov.rpc import Cause, Stage, connect, probe
from flprov.rpc import methods as m
from flprov.rpc.grpc_settings import channel_options
from flprov.wire import pb

LOGIN = "kim:s3cr%40t%3A%2F"  # s3cr@t:/
SECRETS = ("s3cr@t:/", "s3cr%40t", base64.b64encode(b"kim:s3cr@t:/").decode())


def through(url: str) -> Route:
    return Route(proxy=parse_proxy(url), source="site.yml")


async def probed(endpoint: str, url: str, *, timeout: float = 5.0):
    own = credential(SITE)
    return await probe(
        endpoint,
        chain_pem=own.chain_pem,
        private_pem=own.private_pem,
        server_anchors=project().server_anchors,
        route=through(url),
        timeout=timeout,
    )


def connection(endpoint: str, route: Route):
    own = credential(SITE)
    return connect(
        [endpoint],
        chain_pem=own.chain_pem,
        private_pem=own.private_pem,
        server_anchors=project().server_anchors,
        route=route,
    )


@pytest.fixture
async def server_port():
    """A real server whose certificate is for fl.example.org too: a name that only a proxy can resolve."""
    own = issue_identity(
        project().servers, SERVER, names=("localhost", "fl.example.org"), days=1, now=datetime.now(UTC)
    )
    listener = await listen(plain_service(), chain_pem=own.chain_pem, private_pem=own.private_pem)
    yield listener.port
    await listener.stop()


async def call(endpoint: str, route: Route) -> None:
    found = connection(endpoint, route)
    try:
        async for _ in found.download(m.FETCH_BLOB, pb.BlobRequest()):
            pass
    finally:
        await found.close()


@pytest.mark.parametrize("login", ["", f"{LOGIN}@"])
async def test_calls_go_through_the_proxy_and_it_resolves_the_name(server_port, login):
    asked = f"fl.example.org:{server_port}"
    async with forwarding(login="kim:s3cr@t:/" if login else None, port=server_port) as proxy:
        await call(asked, through(proxy.url(login)))
    assert len(proxy.requests) == 2  # the probe, and gRPC
    assert all(head.startswith(f"CONNECT {asked} HTTP/1.1\r\n") for head in proxy.requests)
    assert all(("Proxy-Authorization" in head) == bool(login) for head in proxy.requests)


async def test_steps_of_a_probe_are_told(server_port):
    async with forwarding(port=server_port) as proxy:
        found = await probed(f"fl.example.org:{server_port}", proxy.url())
    assert found.cause is Cause.FINE
    assert [step.stage for step in found.steps] == [
        Stage.NAME,
        Stage.TCP,
        Stage.PROXY,
        Stage.TLS,
        Stage.GREETING,
    ]
    assert found.steps[1].found == f"connected to 127.0.0.1:{proxy.port}"


async def test_the_longer_the_line_the_more_may_come_ahead(server_port, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "flprov.rpc.grpc_client.channel_options",
        lambda proxy, trip: (seen.append(trip), channel_options(proxy, trip))[1],
    )
    await call(f"localhost:{server_port}", DIRECT)
    async with forwarding(port=server_port, delay=0.3) as proxy:
        await call(f"fl.example.org:{server_port}", through(proxy.url()))
    near, far = seen
    assert 0 < near < 0.3 <= far < 5


@pytest.mark.parametrize(
    ("trip", "ahead"),
    [(0.0, 2 << 20), (0.001, 2 << 20), (0.1, 12_500_000), (0.2, 16 << 20), (30.0, 16 << 20)],
)
def test_what_may_come_ahead_is_a_trip_at_a_gigabit(trip, ahead):
    assert dict(channel_options(None, trip))["grpc.http2.lookahead_bytes"] == ahead


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "http_proxy", "grpc_proxy", "all_proxy"])
async def test_grpc_does_not_listen_to_the_environment(server_port, monkeypatch, name):
    async with saying(b"HTTP/1.1 403 no\r\n\r\n") as proxy:
        monkeypatch.setenv(name, proxy.url())
        await call(f"localhost:{server_port}", DIRECT)
    assert proxy.requests == []


async def test_no_proxy_of_the_environment_does_not_lead_past_our_proxy(server_port, monkeypatch):
    monkeypatch.setenv("no_proxy", "*,example.org,localhost")
    monkeypatch.setenv("NO_PROXY", "*,example.org,localhost")
    async with forwarding() as proxy:
        await call(f"localhost:{server_port}", through(proxy.url()))
    assert len(proxy.requests) == 2


async def test_exceptions_are_dialled_directly(server_port):
    async with saying(b"HTTP/1.1 403 no\r\n\r\n") as proxy:
        route = Route(proxy=parse_proxy(proxy.url()), exceptions=("localhost",))
        await call(f"localhost:{server_port}", route)
    assert proxy.requests == []


ANSWERS = {
    "wants a login": (
        b'HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm="r"\r\n\r\n',
        "",
        Cause.PROXY_LOGIN,
        "asks for a user name and password (407), and it has none from us",
    ),
    "does not take the login": (
        b'HTTP/1.0 407 x\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm="r"\r\n\r\n',
        f"{LOGIN}@",
        Cause.PROXY_LOGIN,
        "does not take the user name and password that it was given (407)",
    ),
    "wants another kind of login": (
        b"HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nproxy-authenticate: Negotiate\r\n\r\n",
        f"{LOGIN}@",
        Cause.PROXY_LOGIN,
        "wants a login by NTLM or Negotiate (407), and flprov speaks Basic only",
    ),
    "a rule": (
        b"HTTP/1.1 403 kim:s3cr@t:/ may not\r\n\r\n<h1>s3cr@t:/</h1>",
        f"{LOGIN}@",
        Cause.PROXY_REFUSED,
        "does not let this machine reach fl.example.org:8443 (403 Forbidden)",
    ),
    "no CONNECT": (b"HTTP/1.1 405 x\r\n\r\n", "", Cause.PROXY_REFUSED, "(405 Method Not Allowed)"),
    "an odd number": (b"HTTP/1.1 599 x\r\n\r\n", "", Cause.PROXY_REFUSED, "(599)"),
    "server away": (
        b"HTTP/1.1 502 x\r\n\r\n",
        "",
        Cause.PROXY_REFUSED,
        "cannot reach fl.example.org:8443 (502 Bad Gateway)",
    ),
    "redirect": (
        b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/login\r\n\r\n",
        "",
        Cause.PROXY_REFUSED,
        "answers with a redirect (302 Found), which is not followed",
    ),
    "nonsense": (b"SSH-2.0-OpenSSH_9.2\r\n", "", Cause.PROXY_NONSENSE, "does not answer as an HTTP proxy"),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "", Cause.PROXY_NONSENSE, "does not answer as an HTTP proxy"),
    "half an answer": (b"HTTP/1.1 200 OK\r\nVia: x", "", Cause.PROXY_NONSENSE, "does not answer"),
    "bytes behind the answer": (
        b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x01",
        "",
        Cause.PROXY_NONSENSE,
        "does not answer as an HTTP proxy",
    ),
    "endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000, "", Cause.PROXY_NONSENSE, "does not answer"),
    "nothing": (None, "", Cause.PROXY_UNREACHABLE, "hung up without an answer"),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_a_proxy_answers_is_named_and_a_retry_may_help(case):
    answer, login, cause, words = ANSWERS[case]
    async with saying(answer) as proxy:
        found = await probed("fl.example.org:8443", proxy.url(login))
        with pytest.raises(errors.ServerUnavailable):
            await call("fl.example.org:8443", through(proxy.url(login)))
    assert found.cause is cause
    assert f"127.0.0.1:{proxy.port}" in str(found.error)
    assert words in str(found.error)
    assert isinstance(found.error, errors.ServerUnavailable)
    assert found.stage is Stage.PROXY
    assert not any(secret in f"{found!r} {found.error} {found.error.hint}" for secret in SECRETS)


async def test_stalled_proxy_is_waited_for_and_named():
    async with saying(b"HTTP/1.1 ", hold=True) as proxy:
        found = await probed("fl.example.org:8443", proxy.url(), timeout=0.3)
    assert found.cause is Cause.TIMEOUT
    assert f"the proxy {proxy.url()} does not answer: no answer from the proxy within 0.3" in str(found.error)


async def test_proxy_that_is_away_is_named():
    async with saying(b"") as proxy:
        pass
    found = await probed("fl.example.org:8443", proxy.url(f"{LOGIN}@"))
    assert (found.cause, found.stage) == (Cause.PROXY_UNREACHABLE, Stage.TCP)
    assert str(found.error) == f"nothing listens at the proxy http://127.0.0.1:{proxy.port}"


@pytest.mark.parametrize(
    ("source", "says"),
    [("site.yml", "in site.yml"), ("kit.yml", "in site.yml"), ("HTTPS_PROXY", "FLPROV_PROXY=none")],
)
async def test_the_way_past_a_proxy_is_where_the_proxy_was_named(source, says):
    async with saying(b"") as proxy:
        pass
    with pytest.raises(errors.ServerUnavailable) as error:
        await call("fl.example.org:8443", Route(proxy=parse_proxy(proxy.url()), source=source))
    assert says in error.value.hint


async def test_proxy_whose_name_does_not_resolve_is_named():
    found = await probed("fl.example.org:8443", "http://no-such-proxy.invalid:3128")
    assert (found.cause, found.stage) == (Cause.PROXY_UNREACHABLE, Stage.NAME)
    assert "the proxy http://no-such-proxy.invalid:3128: the name" in str(found.error)


async def test_certificate_of_another_ca_behind_a_proxy_is_looked_at_through_it():
    own = make_project().issue(SERVER)
    listener = await listen(plain_service(), chain_pem=own.chain_pem, private_pem=own.private_pem)
    try:
        async with forwarding() as proxy:
            found = await probed(f"localhost:{listener.port}", proxy.url())
    finally:
        await listener.stop()
    assert found.cause is Cause.OTHER_CA
    assert f"localhost:{listener.port} (through the proxy {proxy.url()}): " in str(found.error)
    assert "is issued by" in str(found.error)
    assert len(proxy.requests) == 2


async def test_the_password_is_in_no_log_and_no_trace(caplog):
    caplog.set_level(logging.DEBUG)
    async with saying(b"HTTP/1.1 407 x\r\n\r\n") as proxy:
        with pytest.raises(errors.ServerUnavailable) as caught:
            await call("fl.example.org:8443", through(proxy.url(f"{LOGIN}@")))
    told = (
        "".join(traceback.format_exception(caught.value))
        + caplog.text
        + repr(through(proxy.url(f"{LOGIN}@")))
    )
    assert not any(secret in told for secret in SECRETS)
    assert any(SECRETS[2] in head for head in proxy.requests)  # it was really used


async def test_a_proxy_that_fails_after_the_probe_is_an_error_of_the_server_link(server_port):
    """gRPC's own words carry no password either."""
    async with forwarding(login="kim:s3cr@t:/") as proxy:
        channel_route = through(proxy.url("kim:wrong-pass@"))
        options = channel_options(channel_route.proxy)
        channel = grpc.aio.secure_channel(
            f"localhost:{server_port}", grpc.ssl_channel_credentials(), options=options
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(channel.unary_unary("/a/b")(b""), 5)
        await channel.close()
    assert "407" in str(caught.value.details())
    assert "wrong-pass" not in str(caught.value)
