# SPDX-License-Identifier: Apache-2.0
"""Fakes for what stands beside a server: a store that can fail, workflow processes that follow a script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from flprov.errors import FlprovError, JobFailed, LocalError
from flprov.store import Change, MemoryStore, Row
from flprov.wire import pb
from flprov.workers import ExitRecord, LaunchOrder

PATIENCE = 10.0  # seconds; only a failing test waits so long


class FailingStore(MemoryStore):
    """A MemoryStore whose disk is full while `full`; urgent commits have the reserve."""

    full = False
    no_reserve = False

    async def commit(
        self,
        changes: Sequence[Change],
        row: Row | None,
        *,
        urgent: bool = False,
        before: Sequence[Row] = (),
    ) -> int:
        if self.full and (self.no_reserve or not urgent):
            raise LocalError("the log cannot be written: the disk is full")
        return await super().commit(changes, row, urgent=urgent, before=before)

    def told(self, what: str) -> list[Row]:
        """The rows of this kind."""
        return [entry.row for entry in self.rows(limit=10_000) if entry.row.what == what]


class FakeChannel:
    """Both ends of a workflow's channel."""

    def __init__(self) -> None:
        self.to_worker: asyncio.Queue[pb.ToWorker] = asyncio.Queue()
        self.from_worker: asyncio.Queue[pb.FromWorker | FlprovError | None] = asyncio.Queue()
        self.closed = False

    async def send(self, message: pb.ToWorker) -> None:
        if self.closed:
            raise JobFailed("the job's process has closed its channel")
        self.to_worker.put_nowait(pb.ToWorker.FromString(message.SerializeToString()))

    async def receive(self) -> pb.FromWorker | None:
        found = await self.from_worker.get()
        if isinstance(found, FlprovError):
            raise found
        return found

    def close(self) -> None:
        self.closed = True


class FakeProcess:
    """A workflow's process; the test plays the workflow."""

    confinement = "none"

    def __init__(self, order: LaunchOrder) -> None:
        self.order = order
        self.channel = FakeChannel()
        self.remaining: tuple[int, ...] = ()  # what survives a stop
        self.stops: list[float] = []
        self._listeners: list[Callable[[], None]] = []
        self._ended: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()

    @property
    def log(self) -> Path:
        return self.order.folder / "log"

    def on_log(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)
        listener()

    async def wait(self) -> ExitRecord:
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> tuple[int, ...]:
        self.stops.append(grace)
        self.end("was stopped")
        return self.remaining

    # ---- the test's side -----------------------------------------------------------------

    def end(self, reason: str = "exited with status 1", record: ExitRecord | None = None) -> None:
        """The process is gone."""
        self.channel.closed = True
        if not self._ended.done():
            self._ended.set_result(record or ExitRecord(reason=reason, code=1))
            self.channel.from_worker.put_nowait(None)

    def say(self, frame: pb.FromWorker) -> None:
        self.channel.from_worker.put_nowait(frame)

    def break_off(self, error: FlprovError) -> None:
        """What comes from the process is not a frame."""
        self.channel.from_worker.put_nowait(error)

    def print(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)
        for listener in self._listeners:
            listener()

    def leave(self, name: str, data: bytes) -> pb.Payload:
        """A file in out/, as a workflow hands it over."""
        (self.order.folder / "out" / name).write_bytes(data)
        return pb.Payload(file=name, size=len(data))

    def handed(self, part: pb.Payload) -> bytes:
        """The bytes that were handed in."""
        return (self.order.folder / "in" / part.file).read_bytes() if part.file else part.inline

    async def hears(self, kind: str) -> pb.ToWorker:
        """The next frame, which is of this kind."""
        async with asyncio.timeout(PATIENCE):
            frame = await self.channel.to_worker.get()
        assert frame.WhichOneof("body") == kind, frame
        return frame


class FakeLauncher:
    """Starts FakeProcesses, or fails."""

    def __init__(self) -> None:
        self.started: list[FakeProcess] = []
        self.error: FlprovError | None = None
        self.launching = asyncio.Event()
        self.gate: asyncio.Event | None = None  # holds a launch back
        self._new: asyncio.Queue[FakeProcess] = asyncio.Queue()

    async def launch(self, order: LaunchOrder) -> FakeProcess:
        self.launching.set()
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        process = FakeProcess(order)
        self.started.append(process)
        self._new.put_nowait(process)
        return process

    async def process(self) -> FakeProcess:
        """The next process that is started."""
        async with asyncio.timeout(PATIENCE):
            return await self._new.get()
