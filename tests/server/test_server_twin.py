# SPDX-License-Identifier: Apache-2.0
"""Before it listens, a server looks whether another one with its identity is at work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from flprov._base import SystemClock
from flprov.errors import KitRefused
from flprov.kits import Kit, current_credential
from flprov.pki import join_anchors
from flprov.rpc import METHODS, Shape, serve
from flprov.server import twin
from flprov.server.twin import verify_alone


async def _nothing(call, request):
    return call.method.reply()


async def _stream(call, request):
    yield call.method.reply()


@contextlib.asynccontextmanager
async def listening(kit: Kit) -> AsyncIterator[str]:
    """A server that shows this kit's certificate."""
    service = {method: _nothing if method.shape is Shape.UNARY else _stream for method in METHODS}
    anchors = join_anchors(kit.anchors["sites"], kit.anchors["people"])
    listener = await serve(
        service, listen="127.0.0.1:0", chain_pem=kit.chain_pem, private_pem=kit.private_pem, anchors=anchors
    )
    try:
        yield f"127.0.0.1:{listener.port}"
    finally:
        await listener.stop()


async def look(kit: Kit) -> None:
    assert kit.trust is not None
    credential = current_credential(kit, anchors=kit.trust.anchors["servers"], now=SystemClock().now())
    await verify_alone(kit, credential, kit.trust, SystemClock())


async def test_nobody_there(kit):
    await look(kit("server"))


async def test_twin_at_any_of_the_endpoints_is_found_and_named(kit):
    async with listening(kit("server")) as endpoint:
        mine = replace(kit("server"), endpoints=("127.0.0.1:1", endpoint))
        with pytest.raises(
            KitRefused, match=f"another server with this kit's identity answers at {endpoint}"
        ):
            await look(mine)


async def test_something_else_at_the_endpoint_is_no_twin(kit, monkeypatch):
    """Something that is not TLS, and something that never answers."""
    monkeypatch.setattr(twin, "_PATIENCE", 0.2)
    held: list[asyncio.StreamWriter] = []

    async def rude(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        writer.close()

    async def silent(reader, writer):
        held.append(writer)

    for behave in (rude, silent):
        server = await asyncio.start_server(behave, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        mine = replace(
            kit("server"), endpoints=(f"127.0.0.1:{port}", f"localhost:{port}", "no-such-host.invalid:1")
        )
        await look(mine)
        server.close()
    for writer in held:
        writer.close()
