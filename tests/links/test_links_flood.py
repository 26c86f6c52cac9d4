# SPDX-License-Identifier: Apache-2.0
"""Connections that say nothing: the server goes on serving, and lets go of them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "network"))

from harness import Network

MANY = 1000
# What a TLS client sends first, cut off after its head: the server waits for the rest.
HALF_HELLO = bytes.fromhex("160301020001")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Network]:
    network = Network(tmp_path, 1)
    network.command = lambda words: ["prlimit", "--nofile=1024:8192", *words]  # the usual limits
    try:
        network.start("server")
        yield network
    finally:
        network.close()


async def _open(port: int, say: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(say)
    await writer.drain()
    return writer


@pytest.mark.network
@pytest.mark.parametrize("say", [b"", HALF_HELLO], ids=["silent", "half a hello"])
async def test_a_thousand_connections_that_say_nothing_keep_nobody_out(server: Network, say: bytes) -> None:
    writers = await asyncio.gather(*(_open(server.port, say) for _ in range(MANY)))
    try:
        began = time.monotonic()
        await asyncio.to_thread(server.start, "site-1")
        status = await asyncio.to_thread(lambda: server.admin().status())
        assert {site.state for site in status.sites} <= {"connected", "ready"}
        assert time.monotonic() - began < 10
    finally:
        for writer in writers:
            writer.close()
        with contextlib.suppress(OSError):
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
