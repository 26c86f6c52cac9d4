# SPDX-License-Identifier: Apache-2.0
"""The dialling side over gRPC: which endpoint, when to dial again, and whom it believes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import re
import socket

import psutil
import pytest
from networks import dial, listen, plain_service
from parties import LEAD, SERVER, SITE, credential, project

from flprov import errors
from flprov.rpc import connect
from flprov.rpc import methods as m
from flprov.rpc.grpc_settings import grpc
from flprov.wire import PROTOCOL, pb


def dial_all(*endpoints: str):
    own = credential(LEAD)
    return connect(
        endpoints,
        chain_pem=own.chain_pem,
        private_pem=own.private_pem,
        server_anchors=project().server_anchors,
    )


def established(port: int) -> set[int]:
    """The far ends of this process's open connections to a port."""
    return {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
    }


async def dead_port() -> int:
    listener = await listen(plain_service())
    await listener.stop()
    return listener.port


async def test_nothing_is_dialled_before_the_first_call():
    connection = dial_all("no-such-host.invalid:1")
    await connection.close()


async def test_a_prepared_connection_connects_before_the_first_call():
    listener = await listen(plain_service())
    connection = dial(listener.port, LEAD)
    connection.prepare()
    await connection._dialler._prepared
    async with asyncio.timeout(10):
        while len(before := established(listener.port)) != 1:  # the probe's goes, the channel's comes
            await asyncio.sleep(0.05)
    await connection.unary(m.STATUS, pb.Query())
    assert established(listener.port) == before
    await connection.close()
    await listener.stop()


async def test_what_went_wrong_in_preparing_is_told_by_the_first_call_and_not_tried_twice(caplog):
    caplog.set_level(logging.INFO)
    connection = dial_all("127.0.0.1:1", "127.0.0.1:2")
    connection.prepare()
    for attempts in (1, 2):
        with pytest.raises(errors.ServerUnavailable, match=r"127\.0\.0\.1:2"):
            await connection.unary(m.STATUS, pb.Query())
        assert caplog.text.count("trying the next endpoint") == attempts
    await connection.close()


async def test_what_went_wrong_in_preparing_and_is_not_asked_for_is_no_complaint(caplog):
    connection = dial_all("127.0.0.1:1")
    connection.prepare()
    await asyncio.sleep(0.05)
    await connection.close()
    del connection
    gc.collect()
    assert not caplog.text


async def test_first_endpoint_that_works_is_taken():
    listener = await listen(plain_service())
    connection = dial_all(f"127.0.0.1:{await dead_port()}", f"127.0.0.1:{listener.port}")
    await connection.unary(m.STATUS, pb.Query())
    await connection.close()
    await listener.stop()


async def test_when_none_works_each_is_named():
    connection = dial_all("127.0.0.1:1", "no-such-host.invalid:2")
    with pytest.raises(errors.ServerUnavailable) as caught:
        await connection.unary(m.STATUS, pb.Query())
    assert "nothing listens at 127.0.0.1:1" in str(caught.value)
    assert "no-such-host.invalid:2" in str(caught.value)
    await connection.close()


async def test_a_machine_without_files_for_another_connection_can_try_again(monkeypatch):
    def refuse(_name: str, _flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    listener = await listen(plain_service())
    connection = dial(listener.port, LEAD)
    with monkeypatch.context() as patched:
        patched.setattr("flprov.rpc.dial.os.memfd_create", refuse)
        with pytest.raises(errors.ServerUnavailable, match=r"cannot begin TLS with .*Too many open files"):
            await connection.unary(m.STATUS, pb.Query())
    await connection.unary(m.STATUS, pb.Query())
    await connection.close()
    await listener.stop()


async def test_no_endpoint_and_bad_endpoint_are_told_at_once():
    with pytest.raises(errors.LocalError):
        dial_all()
    with pytest.raises(errors.Misuse):
        dial_all("https://fl.example.org")


async def test_server_that_came_back_is_found_by_the_next_call():
    listener = await listen(plain_service())
    connection = dial(listener.port, LEAD)
    await connection.unary(m.STATUS, pb.Query())
    await listener.stop()
    with pytest.raises(errors.ServerUnavailable, match=re.escape(f"127.0.0.1:{listener.port}")):
        await connection.unary(m.STATUS, pb.Query())
    with pytest.raises(errors.ServerUnavailable, match="nothing listens at"):
        await connection.unary(m.STATUS, pb.Query())
    listener = await listen(plain_service(), listen=f"127.0.0.1:{listener.port}")
    await connection.unary(m.STATUS, pb.Query())
    await connection.close()
    await listener.stop()


async def test_error_of_a_handler_is_no_reason_to_dial_again():
    peers = set()

    async def status(call, request):
        peers.add(call.peer)
        raise errors.SiteUnavailable("site-a is not connected")

    listener = await listen(plain_service({m.STATUS: status}))
    connection = dial(listener.port, LEAD)
    for _ in range(3):
        with pytest.raises(errors.SiteUnavailable):
            await connection.unary(m.STATUS, pb.Query())
    assert len(peers) == 1
    await connection.close()
    await listener.stop()


async def test_two_connections_are_two_tcp_connections():
    peers = []

    async def status(call, request):
        peers.append(call.peer)
        return pb.Document()

    listener = await listen(plain_service({m.STATUS: status}))
    connections = [dial(listener.port, LEAD) for _ in range(2)]
    for connection in connections * 2:
        await connection.unary(m.STATUS, pb.Query())
    for connection in connections:
        await connection.close()
    await listener.stop()
    assert peers[:2] == peers[2:]
    assert len(set(peers)) == 2
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", peer) for peer in peers)


async def test_calls_that_start_together_open_one_connection():
    peers = set()

    async def status(call, request):
        peers.add(call.peer)
        return pb.Document()

    listener = await listen(plain_service({m.STATUS: status}))
    connection = dial(listener.port, LEAD)
    await asyncio.gather(*(connection.unary(m.STATUS, pb.Query()) for _ in range(10)))
    await connection.close()
    await listener.stop()
    assert len(peers) == 1


async def test_open_calls_survive_while_a_stopping_server_refuses_new_ones():
    began, finish = asyncio.Event(), asyncio.Event()

    async def show(call, request):
        began.set()
        await finish.wait()
        return pb.Document(json=b"done")

    listener = await listen(plain_service({m.SHOW_JOB: show}))
    connection = dial(listener.port, LEAD)
    open_call = asyncio.create_task(connection.unary(m.SHOW_JOB, pb.Query()))
    await began.wait()
    stopping = asyncio.create_task(listener.stop(10))
    await asyncio.sleep(0)
    with pytest.raises(errors.ServerUnavailable):
        await connection.unary(m.STATUS, pb.Query())
    finish.set()
    assert (await open_call).json == b"done"
    await stopping
    await connection.close()


@contextlib.asynccontextmanager
async def speaking(version: str | None, *, refuse: bool = False):
    """A server with a good certificate that speaks some other protocol."""

    class EveryMethod(grpc.GenericRpcHandler):
        def service(self, details):
            async def answer(requests, context):
                greeting = (("flprov-protocol", version),) if version else ()
                if refuse:
                    trailers = (*greeting, ("flprov-code", "not-found"), ("flprov-message-bin", b"no"))
                    await context.abort(grpc.StatusCode.NOT_FOUND, "no", trailers)
                await context.send_initial_metadata(greeting)
                await context.write(b"")

            return grpc.stream_stream_rpc_method_handler(answer)

    own = credential(SERVER)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((EveryMethod(),))
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials(
            [(own.private_pem, own.chain_pem)], project().caller_anchors.pem, require_client_auth=True
        ),
    )
    await server.start()
    connection = dial(port, LEAD)
    try:
        yield connection
    finally:
        await connection.close()
        await server.stop(0)


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize(
    ("version", "hint"),
    [(str(PROTOCOL + 1), "upgrade this flprov"), ("0", "upgrade flprov at the server at 127")],
)
async def test_server_of_another_version_is_named(version, hint, refuse):
    async with speaking(version, refuse=refuse) as connection:
        with pytest.raises(
            errors.ProtocolError, match=re.escape(f"speaks protocol {version}; this flprov")
        ) as caught:
            await connection.unary(m.STATUS, pb.Query())
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize("version", [None, "one", "-1", "9" * 5000])
async def test_server_that_names_no_version_is_not_believed(version):
    async with speaking(version) as connection:
        with pytest.raises(errors.ProtocolError):
            await connection.unary(m.STATUS, pb.Query())


async def test_server_of_our_version_is_believed():
    async with speaking(str(PROTOCOL)) as connection:
        assert await connection.unary(m.STATUS, pb.Query()) == pb.Document()
    async with speaking(str(PROTOCOL), refuse=True) as connection:
        with pytest.raises(errors.NotFound, match=r"^no$"):
            await connection.unary(m.STATUS, pb.Query())


async def test_slow_endpoint_counts_against_the_connect_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = dial(silent.getsockname()[1], SITE, connect_timeout=0.2)
        with pytest.raises(errors.ServerUnavailable, match=r"within 0\.2 seconds"):
            await anext(connection.download(m.FETCH_BLOB, pb.BlobRequest()))
        await connection.close()
