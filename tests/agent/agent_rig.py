# SPDX-License-Identifier: Apache-2.0
"""Fakes around a site's jobs: a server that hands out blobs, workers that say what a test tells them to."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from agent_parties import NOW, App, make_deploy

from flprov.agent.bulk import Bulk
from flprov.agent.config import AgentConfig
from flprov.agent.held import SiteJobs
from flprov.agent.vitals import GPUs
from flprov.blobs import BlobStore, digest_of
from flprov.errors import JobFailed, NotFound, ServerUnavailable
from flprov.kits import Kit
from flprov.pki import parse_identity
from flprov.rpc import Connection, InProcessNetwork
from flprov.rpc import methods as m
from flprov.server.logs import LogBook
from flprov.server.transfers import receive_blob
from flprov.store import MemoryStore
from flprov.testing.clock import FakeClock
from flprov.wire import pb
from flprov.wire.documents import GPU
from flprov.workers import ExitRecord, LaunchOrder

SITE_IDENTITY = parse_identity("spiffe://heart.example/site/org-a/site-1")
PATIENCE = 20.0  # seconds after which a test has failed; nothing waits for it


class Heard:
    """What was said so far, and waiting for more of it."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._grew = asyncio.Event()

    def add(self, item: Any) -> None:
        self.all.append(item)
        self._grew.set()

    def of(self, kind: str) -> list[Any]:
        """The bodies of all messages of one kind."""
        return [getattr(item, kind) for item in self.all if item.WhichOneof("body") == kind]

    async def wait(self, kind: str, count: int = 1) -> Any:
        """The body of the message number `count` of one kind."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self.of(kind)) < count:
                self._grew.clear()
                await self._grew.wait()
            return found[count - 1]


# ---- workers -----------------------------------------------------------------------------------


class FakeChannel:
    def __init__(self) -> None:
        self.sent = Heard()
        self.said: asyncio.Queue[pb.FromWorker | Exception | None] = asyncio.Queue()
        self.closed = False

    async def send(self, message: pb.ToWorker) -> None:
        if self.closed:
            raise JobFailed("the channel to the job's process is closed")
        self.sent.add(message)

    async def receive(self) -> pb.FromWorker | None:
        item = await self.said.get()
        if isinstance(item, Exception):
            raise item
        return item

    def say(self, **body: Any) -> None:
        self.said.put_nowait(pb.FromWorker(**body))

    def close(self) -> None:
        self.closed = True


class FakeProcess:
    """A worker that lives until it is stopped or a test ends it."""

    confinement = "none"

    def __init__(self, order: LaunchOrder) -> None:
        self.order = order
        self.channel = FakeChannel()
        self.log = order.folder / "log"
        self.stops: list[float] = []
        self.remaining: tuple[int, ...] = ()
        self.listeners: list[Callable[[], None]] = []
        self.left = False
        self._ended: asyncio.Future[ExitRecord] = asyncio.get_running_loop().create_future()

    async def leave(self) -> None:
        self.left = True

    @property
    def alive(self) -> bool:
        return not self._ended.done()

    def on_log(self, listener: Callable[[], None]) -> None:
        self.listeners.append(listener)

    def print(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)
        for listener in self.listeners:
            listener()

    def end(
        self, reason: str = "exited with status 0", *, code: int | None = 0, outside: bool = False
    ) -> None:
        """It ends by itself, or is killed by somebody `outside`."""
        self.channel.close()
        self.channel.said.put_nowait(None)
        self._ended.set_result(ExitRecord(reason=reason, code=code, outside=outside))

    async def wait(self) -> ExitRecord:
        return await asyncio.shield(self._ended)

    async def stop(self, grace: float) -> tuple[int, ...]:
        self.stops.append(grace)
        if self.alive:
            self.channel.close()
            self.channel.said.put_nowait(None)
            self._ended.set_result(ExitRecord(reason="was stopped", stopped=True, remaining=self.remaining))
        return self.remaining


class FakeLauncher:
    """Starts fake workers; `gate` holds a launch back, `error` refuses it."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.launching = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def launch(self, order: LaunchOrder) -> FakeProcess:
        self.launching.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.processes.append(FakeProcess(order))
        return self.processes[-1]

    async def adopt(self, folder: Path) -> FakeProcess | None:
        for process in self.processes:
            if process.left and process.alive and process.order.folder == folder:
                process.left, process.channel, process.listeners = False, FakeChannel(), []
                return process
        return None


class FakeGPUs(GPUs):
    """A machine with these GPUs."""

    def __init__(self, *gpus: GPU) -> None:
        super().__init__()
        self.gpus = gpus
        self.note = "" if gpus else "no NVIDIA driver on this machine"

    def read(self) -> tuple[GPU, ...]:
        return self.gpus


def make_gpu(index: int, *, total: int = 8 << 30, used: int = 0, processes: tuple[int, ...] = ()) -> GPU:
    return GPU(
        index=index,
        uuid=f"GPU-{index}",
        name="A100",
        driver="550",
        memory_total=total,
        memory_used=used,
        utilization=None,
        temperature=None,
        processes=processes,
    )


# ---- the server --------------------------------------------------------------------------------


class FakeServer:
    """The bulk methods of a server, as a test scripts them."""

    def __init__(self, folder: Path) -> None:
        self.blobs: dict[str, bytes] = {}
        self.received = BlobStore(folder / "received")
        self.logs = LogBook(folder / "logs")
        self.fetches: list[pb.BlobRequest] = []
        self.uploads: list[pb.UploadHeader] = []
        self.log_offsets: list[int] = []
        self.chunk = 1 << 20
        self.cuts: list[int] = []  # per call: after so many messages the line breaks
        self.hold: asyncio.Event | None = None  # holds the answer to a fetch back
        self.asked = asyncio.Event()
        self.away = False
        handlers: dict[m.Method, Any] = {method: _not_here(method) for method in m.METHODS}
        handlers |= {m.FETCH_BLOB: self._fetch, m.SEND_BLOB: self._receive, m.SEND_LOGS: self._log}
        self.network = InProcessNetwork(handlers | self.more())

    def more(self) -> dict[m.Method, Any]:
        """Further handlers."""
        return {}

    def add(self, data: bytes) -> str:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def connect(self) -> Connection:
        return self.network.connect(SITE_IDENTITY)

    async def _fetch(self, call: object, requests: AsyncIterator[pb.BlobRequest]) -> AsyncIterator[bytes]:
        breaks = self._line()
        async for request in requests:
            self.fetches.append(request)
            self.asked.set()
            if self.hold is not None:
                await self.hold.wait()
            if request.digest not in self.blobs:
                raise NotFound(f"no blob {request.digest[:12]} here")
            data = self.blobs[request.digest][request.offset : request.offset + request.length]
            for start in range(0, len(data), self.chunk):
                breaks()
                yield data[start : start + self.chunk]

    async def _receive(self, call: object, requests: AsyncIterator[Any]) -> AsyncIterator[pb.UploadReply]:
        breaks = self._line()

        async def through() -> AsyncIterator[Any]:
            async for message in requests:
                if isinstance(message, bytes):
                    breaks()
                yield message

        async for reply in receive_blob(
            self.received, through(), owner="site-1", verify=self._know, most=1 << 30
        ):
            yield reply

    def _know(self, header: pb.UploadHeader) -> bool:
        self.uploads.append(header)
        return True

    async def _log(self, call: object, requests: AsyncIterator[pb.LogMessage]) -> AsyncIterator[pb.LogReply]:
        self._line()
        async for message in requests:
            self.log_offsets.append(message.offset)
            wanted = self.logs.append(
                message.job_id, "site-1", message.offset, message.data, first=message.first
            )
            yield pb.LogReply(job_id=message.job_id, offset=wanted)

    def _line(self) -> Callable[[], None]:
        """To be called before each message; the line may break there."""
        if self.away:
            raise ServerUnavailable("the server does not answer")
        left = [self.cuts.pop(0)] if self.cuts else []

        def message() -> None:
            if left and left[0] == 0:
                raise ServerUnavailable("the line broke")
            left[:] = [count - 1 for count in left]

        return message


def _not_here(method: m.Method) -> Any:
    async def refuse(*_: object) -> Any:
        raise NotFound(f"{method.path} is not part of this test")

    return refuse


# ---- a site ------------------------------------------------------------------------------------


class Rig:
    """The jobs of one site with fakes around them. An `async with` ends what it started."""

    def __init__(self, config: AgentConfig, person: Kit) -> None:
        self.config = config
        self.person = person

    async def __aenter__(self) -> Rig:
        self._folder = tempfile.TemporaryDirectory()
        self.server = FakeServer(Path(self._folder.name))
        self.clock = FakeClock(start=NOW)
        self.store = MemoryStore(clock=self.clock)
        self.blobs = BlobStore(self.config.state / "blobs")
        self.gpus = FakeGPUs()
        await self._begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.jobs.close()
        await self.bulk.close()
        await self.server.network.stop()
        self._folder.cleanup()

    async def _begin(self, launcher: FakeLauncher | None = None) -> None:
        self.reports = Heard()
        self.doings = Heard()
        self.launcher = launcher or FakeLauncher()
        self.bulk = Bulk(self.server.connect, self.blobs, self.clock)
        self.jobs = SiteJobs(
            config=self.config,
            clock=self.clock,
            store=self.store,
            blobs=self.blobs,
            bulk=self.bulk,
            launcher=self.launcher,
            gpus=self.gpus,
            report=self._hear,
        )
        await self.jobs.load()

    def _hear(self, message: pb.FromSite) -> None:
        """What the server is told; what is being done besides tasks is kept apart."""
        (self.doings if message.progress.doing else self.reports).add(message)

    async def come_back(self) -> None:
        """The agent is gone and starts again while its jobs' processes live on."""
        await self.jobs.leave()
        await self.bulk.close()
        await self._begin(self.launcher)

    async def restart(self) -> None:
        """The agent ends and starts again, with what is on its disk."""
        await self.jobs.close()
        await self.bulk.close()
        await self._begin()

    @property
    def process(self) -> FakeProcess:
        return self.launcher.processes[-1]

    @property
    def worker(self) -> FakeChannel:
        return self.process.channel

    def folder(self, job_id: str = "j1") -> Path:
        return self.jobs.folder / job_id

    def offer(self, app: App, *, job_id: str = "j1", **changes: object) -> pb.Deploy:
        """The server has this app, and this is its word to deploy it."""
        self.server.add(app.bundle.data)
        return make_deploy(self.person, app, job_id=job_id, **changes)

    async def deploy(self, app: App, *, job_id: str = "j1", **changes: object) -> pb.Deployed:
        """Deploy a job and wait for the site's answer."""
        before = len(self.reports.of("deployed"))
        self.jobs.deploy(self.offer(app, job_id=job_id, **changes))
        return await self.reports.wait("deployed", before + 1)

    async def stop(self, job_id: str = "j1", *, grace: float = 0.5) -> pb.Stopped:
        before = len(self.reports.of("stopped"))
        self.jobs.stop(job_id, "the job is done", grace)
        stopped = await self.reports.wait("stopped", before + 1)
        await self.clock.elapse(0)  # lets whatever that has set free go on
        return stopped

    def outcomes(self, what: str) -> list[tuple[str, str]]:
        """Object and outcome of the site's own records of one kind."""
        return [(log.row.object, log.row.outcome) for log in self.store.rows() if log.row.what == what]
