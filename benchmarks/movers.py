# SPDX-License-Identifier: Apache-2.0
"""Sites that move models and train nothing: `python movers.py KITS STATES --model FILE NAME...`.

For what a server does with large models of many sites, on a machine that has no room for as many trainers.
Each has the control stream and the transfers of a real agent, as they are. What it fetches is hashed and
thrown away. What it sends is one file that all share; only the last number in it is the site's own, so that
no two sites send the same blob.

Talks as drove.py does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from blake3 import blake3
from drove import connected_after

from flprov._base import SystemClock, to_iso
from flprov.agent import AgentConfig, load_agent_config
from flprov.agent.bulk import Bulk
from flprov.agent.control import Control, Link
from flprov.errors import ProtocolError
from flprov.rpc import dialling
from flprov.wire import PROTOCOL, pb
from flprov.wire.documents import CPU, Space, Vitals

_OWN = 4  # bytes at the end of the file: a float32
_PLENTY = Space(total=1 << 40, available=1 << 40)
_READ = 1 << 20


class Shared:
    """The file that all send, but for its last number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self._hash = blake3()
        left = self.size - _OWN
        with path.open("rb") as file:
            while left:
                left -= len(data := file.read(min(_READ, left)))
                self._hash.update(data)

    def digest(self, own: bytes) -> str:
        """Of the file with these bytes at its end."""
        return self._hash.copy().update(own).hexdigest()


class Version:
    """One site's version of it, in place of a path: it can be opened and read."""

    def __init__(self, shared: Shared, own: bytes) -> None:
        self._shared = shared
        self._own = own

    @contextlib.contextmanager
    def open(self, _mode: str, buffering: int = 0) -> Iterator[Version]:
        """Itself, to be read."""
        with self._shared.path.open("rb", buffering) as self._file:
            yield self

    def seek(self, offset: int) -> None:
        """Go to this byte."""
        self._file.seek(offset)

    def read(self, size: int) -> bytes:
        """As a file has it."""
        data = self._file.read(size)
        over = self._file.tell() - (self._shared.size - _OWN)
        return data if over <= 0 else data[:-over] + self._own[:over]


class Passing:
    """A blob that is fetched: its digest is checked, and nothing is kept."""

    def __init__(self, digest: str, size: int) -> None:
        self.digest, self.size, self.offset = digest, size, 0
        self._hash = blake3()

    async def write(self, data: bytes) -> None:
        """The next piece."""
        self._hash.update(data)
        self.offset += len(data)

    async def finish(self) -> None:
        """There is no more of it."""
        if self._hash.hexdigest() != self.digest:
            raise ProtocolError(f"blob {self.digest[:12]} has another digest")


class NoBlobs:
    """In place of a site's blobs: has none but the one that it sends next."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._own = b""

    def make(self, number: float) -> str:
        """An update with this number at its end; its digest."""
        self._own = np.float32(number).tobytes()
        return self._shared.digest(self._own)

    def has(self, _digest: str) -> bool:
        """Nothing is kept."""
        return False

    def path(self, _digest: str) -> Version:
        """What can be opened as a path can."""
        return Version(self._shared, self._own)

    def size(self, _digest: str) -> int:
        """Of any update."""
        return self._shared.size

    def upload(self, digest: str, size: int, **_how: object) -> Passing:
        """Where a fetched blob goes."""
        return Passing(digest, size)


class Mover:
    """One site."""

    def __init__(self, config: AgentConfig, shared: Shared, number: int) -> None:
        kit, clock = config.kit, SystemClock()
        self._kit, self._number, self._done = kit, number, 0
        self._began, self._installation = to_iso(clock.now()), uuid.uuid4().hex
        dial = dialling(
            kit.endpoints,
            chain_pem=kit.chain_pem,
            private_pem=kit.private_pem,
            server_anchors=kit.anchors["servers"],
        )
        self._blobs = NoBlobs(shared)
        self._bulk = Bulk(dial, cast(Any, self._blobs), clock)
        self._control = Control(
            connect=dial,
            hello=self._hello,
            vitals=self._vitals,
            welcome=lambda _welcome: None,
            obey=self._obey,
            clock=clock,
        )
        self._working: set[asyncio.Task[None]] = set()

    @property
    def link(self) -> Link:
        """To the server."""
        return self._control.link

    async def run(self) -> None:
        """Until cancelled."""
        await self._control.run()

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            protocol=PROTOCOL, installation=self._installation, host="mover", started_at=self._began
        )

    async def _vitals(self) -> Vitals:
        cpu = CPU(count=2, load=0.0, percent=0.0)
        return Vitals(cpu=cpu, memory=_PLENTY, disk=_PLENTY, at=datetime.now(UTC))

    def _obey(self, message: pb.ToSite) -> None:
        kind = message.WhichOneof("body")
        if kind == "deploy":
            self._control.report(pb.FromSite(deployed=pb.Deployed(job_id=message.deploy.job_id, ready=True)))
        elif kind == "stop":
            self._control.report(pb.FromSite(stopped=pb.Stopped(job_id=message.stop.job_id, clean=True)))
        elif kind == "task":
            task = asyncio.create_task(self._answer(message.task))
            self._working.add(task)
            task.add_done_callback(self._working.discard)

    async def _answer(self, order: pb.TaskOrder) -> None:
        """Fetch the model, send an update."""
        if order.model.digest:
            await self._bulk.fetch(order.job_id, order.model.digest, order.model.size)
        self._done += 1
        digest = self._blobs.make(self._number + self._done / 1000)
        await self._bulk.send(order.job_id, digest)
        tensors = pb.Payload(digest=digest, size=self._blobs.size(digest))
        update = pb.UpdateMessage(kind="full", samples=1, tensors=tensors)
        answer = pb.TaskAnswer(job_id=order.job_id, task_id=order.task_id, update=update)
        self._control.report(pb.FromSite(answer=answer))


async def move(kits: Path, model: Path, names: list[str]) -> None:
    """Be these sites until nobody asks any more."""
    shared, now = Shared(model), datetime.now(UTC)
    movers = [
        Mover(load_agent_config(kits / name, now=now), shared, int(name.rpartition("-")[2])) for name in names
    ]
    running = [asyncio.create_task(mover.run()) for mover in movers]
    reader, loop = asyncio.StreamReader(), asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        after = float(json.loads(line)["connected_after"])
        links = await connected_after(after, movers, lambda mover: mover.link)
        print(json.dumps({"links": links}), flush=True)
    for task in running:
        task.cancel()
    await asyncio.wait(running)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    parser = argparse.ArgumentParser()
    parser.add_argument("kits", type=Path)
    parser.add_argument("states", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("names", nargs="+")
    options = parser.parse_args()
    asyncio.run(move(options.kits, options.model, options.names))
