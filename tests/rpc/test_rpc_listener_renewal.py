# SPDX-License-Identifier: Apache-2.0
"""A listener that renews while many shake hands: in a process of its own, since gRPC used to end it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
        await asyncio.sleep(0.002)
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
    assert int(done.stdout.split()[-1]) > 50
