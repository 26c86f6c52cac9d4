# SPDX-License-Identifier: Apache-2.0
"""A whole Server over its own state folder: in this process, or on a port with real certificates."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from server_fakes import PATIENCE, FakeLauncher
from server_parties import job_record

from flprov._base import SystemClock, to_document
from flprov.blobs import BlobStore
from flprov.jobs import Bundle
from flprov.kits import Kit
from flprov.rpc import Connection, connect
from flprov.server import Server, ServerConfig, load_server_config
from flprov.server.records import AppRecord
from flprov.store import Put, open_store
from flprov.testing.inprocess import InProcessNetwork


def copy_config(kits: Path, folder: Path, made_at: datetime) -> ServerConfig:
    """The configuration of a server with a kit of its own below `folder`."""
    config = load_server_config(Path(shutil.copytree(kits / "server", folder / "server")), now=made_at)
    return replace(config, metrics="off")  # no two tests want the same port


async def put_job(config: ServerConfig, app: Bundle, **changes: Any) -> None:
    """An app, and a job of leo's, on the disk of a server that is not running."""
    config.state.mkdir(parents=True, exist_ok=True)
    await BlobStore(config.state / "blobs").put(app.data)
    clock = SystemClock()
    job = job_record(app.digest, **({"submitted_at": clock.now()} | changes))
    record = AppRecord(
        digest=app.digest,
        name="heart",
        size=len(app.data),
        uploaded_at=clock.now(),
        uploaded_by=job.submitted_by,
        files=app.files,
    )
    store = open_store(config.state, clock=clock)
    await store.commit(
        [Put("app", app.digest, to_document(record)), Put("job", job.id, to_document(job))], None
    )
    await store.close()


class Running:
    """A server that is up."""

    def __init__(self, server: Server, dial: Callable[[Kit], Connection], launcher: FakeLauncher) -> None:
        self.server = server
        self.launcher = launcher
        self._dial = dial
        self._connections: list[Connection] = []

    def connect(self, kit: Kit) -> Connection:
        self._connections.append(self._dial(kit))
        return self._connections[-1]

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()


@contextlib.asynccontextmanager
async def running(
    config: ServerConfig, *, transport: str = "inprocess", **kwargs: Any
) -> AsyncIterator[Running]:
    """Start the server, wait until it is ready, and stop it in the end."""
    networks: list[InProcessNetwork] = []

    async def serve_on(service: Any, **gates: Any) -> InProcessNetwork:
        networks.append(InProcessNetwork(service, **gates))
        return networks[-1]

    launcher = FakeLauncher()
    options: dict[str, Any] = {"launcher": launcher} | kwargs
    if transport == "inprocess":
        options["serve_on"] = serve_on
    server = Server(config, **options)

    def dial(kit: Kit) -> Connection:
        if transport == "inprocess":
            return networks[0].connect(kit.identity)
        return connect(
            [f"127.0.0.1:{server.port}"],
            chain_pem=kit.chain_pem,
            private_pem=kit.private_pem,
            server_anchors=kit.anchors["servers"],
        )

    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    await asyncio.gather(ready, return_exceptions=True)
    if task.done():
        task.result()
    found = Running(server, dial, launcher)
    try:
        yield found
    finally:
        await found.close()
        server.stop()
        async with asyncio.timeout(PATIENCE):
            await task
