# SPDX-License-Identifier: Apache-2.0
"""A listener that renews while many shake hands: in a process of its own, since gRPC used to end it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from pathlib import Path

from networks import grpc_network, plain_service
from parties import SERVER, project

HERE = Path(__file__).resolve().parent
SECONDS = 3.0
THREADS = 16
HERD = f"""
import asyncio, socket, ssl, threading, time

from networks import listen, plain_service
from parties import SERVER, project


def shake_hands(port, over):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port)) as connected:
                context.wrap_socket(connected).close()
        except OSError:
            pass


async def main():
    listener = await listen(plain_service())
    over = threading.Event()
    herd = [threading.Thread(target=shake_hands, args=(listener.port, over)) for _ in range({THREADS})]
    for one in herd:
        one.start()
    shown = [project().issue(SERVER) for _ in range(4)]
    end, count = time.monotonic() + {SECONDS}, 0
    while time.monotonic() < end:
        listener.renew(shown[count % 4].chain_pem, shown[count % 4].private_pem)
        count += 1
        await asyncio.sleep(0.3)
    over.set()
    await listener.stop()
    print("alive after", count)


asyncio.run(main())
"""


def test_a_server_that_renews_in_the_middle_of_a_herd_stays_alive():
    done = subprocess.run(
        [sys.executable, "-c", HERD], cwd=HERE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 5


def shown(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10).encode()


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
