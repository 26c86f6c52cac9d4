# SPDX-License-Identifier: Apache-2.0
"""A listener that changes its certificate while many shake hands with it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading

from networks import dial, grpc_network, plain_service
from parties import LEAD, SERVER, project

from flprov.rpc import methods as m
from flprov.wire import pb

THREADS, HANDSHAKES = 12, 40


def shake_hands(port: int, times: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for _ in range(times):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, context.wrap_socket(plain):
            pass


def shown(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10).encode()


async def test_many_handshakes_at_once_do_not_harm_the_listener():
    """gRPC frees the certificates in force when it is given others: it must be given them once."""
    async with grpc_network(plain_service()) as network:
        port = network.listener.port
        threads = [threading.Thread(target=shake_hands, args=(port, HANDSHAKES)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        connection = dial(port, LEAD)
        await connection.unary(m.STATUS, pb.Query(), timeout=10)
        await connection.close()


async def test_the_newest_certificate_is_shown_from_the_next_handshake_on():
    async with grpc_network(plain_service()) as network:
        port = network.listener.port
        for _ in range(3):
            new = project().issue(SERVER)
            assert await asyncio.to_thread(shown, port) != new.certificate_pem
            network.listener.renew(new.chain_pem, new.private_pem)
            found = [await asyncio.to_thread(shown, port) for _ in range(2)]
            assert found == [new.certificate_pem] * 2


async def test_grpc_is_given_each_certificate_once():
    async with grpc_network(plain_service()) as network:
        listener = network.listener
        assert listener._fetch_certificates() is None  # it began with the first
        for _ in range(2):
            new = project().issue(SERVER)
            listener.renew(new.chain_pem, new.private_pem)
            assert listener._fetch_certificates() is not None
            assert listener._fetch_certificates() is None
