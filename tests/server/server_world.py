# SPDX-License-Identifier: Apache-2.0
"""A server's parts without a network: real but for the clock, the log's disk, and the processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from server_fakes import PATIENCE, FailingStore, FakeLauncher, FakeProcess
from server_parties import SITE_ORGS, job_record, payload, site, tensors, update_record, vitals

from flprov._base import to_document
from flprov.blobs import BlobStore
from flprov.jobs import Bundle, JobState
from flprov.kits import RegistryEntry
from flprov.server.jobs import events as ev
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.run import JobRun
from flprov.server.logs import LogBook
from flprov.server.records import AppRecord, JobRecord, UpdateRecord
from flprov.server.registry import Registry
from flprov.server.sessions import Session, Sessions
from flprov.store import Put
from flprov.testing.clock import FakeClock
from flprov.wire import PROTOCOL, pb
from flprov.wire.documents import Vitals

HOSTS = {name: f"{name}.example" for name in SITE_ORGS}


def hello(name: str = "site-1", installation: str = "", **changes: Any) -> pb.Hello:
    """Of a site that holds the first trust bundle: else the server begins with sending it."""
    found = {"protocol": PROTOCOL, "version": "1.0", "host": HOSTS.get(name, name), "trust": 1} | changes
    return pb.Hello(installation=installation or f"installation-of-{name}", **found)


class World:
    """Jobs and everything they stand on. Ends what it started in `close`."""

    def __init__(self, folder: Path, app: Bundle) -> None:
        self.folder = folder
        self.app = app
        self.clock = FakeClock()
        self.store = FailingStore(clock=self.clock)
        self.blobs = BlobStore(folder / "blobs")
        entries = tuple(RegistryEntry(name=name, org=org) for name, org in SITE_ORGS.items())
        self.checkpoints = Retention()
        self.kit = SimpleNamespace(trust_domain="heart.example", registry=entries)
        self.boot()

    def boot(self) -> None:
        """A server on this disk; after a crash, the next one."""
        self.sessions = Sessions()
        self.launcher = FakeLauncher()
        self.logs = LogBook(self.folder / "jobs")
        self.registry = Registry(self.kit, self.store)
        self.registry.load()
        self.jobs = Jobs(
            clock=self.clock,
            store=self.store,
            blobs=self.blobs,
            sessions=self.sessions,
            launcher=self.launcher,
            logs=self.logs,
            registry=self.registry,
            folder=self.folder / "jobs",
            python=Path("python"),
            unconfined=False,
            checkpoints=self.checkpoints,
        )

    async def reboot(self) -> None:
        """SIGKILL and a new start: what is not on disk is gone."""
        await self.jobs.close()
        self.boot()
        self.jobs.load()

    async def close(self) -> None:
        await self.jobs.close()

    async def put_app(self) -> None:
        digest = await self.blobs.put(self.app.data)
        record = AppRecord(
            digest=digest,
            name=self.app.spec.name,
            size=len(self.app.data),
            uploaded_at=self.clock.now(),
            uploaded_by=site("site-1").uri,
            files=self.app.files,
        )
        await self.store.commit([Put("app", digest, to_document(record))], None)

    async def put_job(self, known: tuple[UpdateRecord, ...] = (), **changes: Any) -> JobRecord:
        """A job on disk, as an earlier server left it; `boot` and `load` find it."""
        job = job_record(self.app.digest, **changes)
        puts = [Put("update", update.key, to_document(update)) for update in known]
        await self.store.commit([Put("job", job.id, to_document(job)), *puts], None)
        return job

    async def run(self, known: tuple[UpdateRecord, ...] = (), **changes: Any) -> JobRun:
        """`put_job`, taken up by this server."""
        job = await self.put_job(known, **changes)
        self.jobs.load()
        return self.jobs.find(job.id)

    # ---- waiting -------------------------------------------------------------------------

    async def until(self, run: JobRun, holds: Callable[[JobRun], bool]) -> JobRun:
        """Wait for a change after which this holds."""
        async with asyncio.timeout(PATIENCE):
            async for seen in self.jobs.watch(run.record.id):
                if holds(seen):
                    return seen
        raise AssertionError(f"the job ended before: {run.record.state} {run.record.reason}")

    async def reaches(self, run: JobRun, state: JobState) -> JobRun:
        return await self.until(run, lambda seen: seen.record.state is state)

    async def over(self, run: JobRun) -> None:
        """Wait until the run has handled its last event."""
        async with asyncio.timeout(PATIENCE):
            loop = self.jobs._loops.get(run.record.id)
            if loop is not None:
                await asyncio.wait([loop])

    def stored(self, run: JobRun) -> dict[str, Any]:
        found = self.store.get("job", run.record.id)
        assert found is not None
        return found

    # ---- sites ---------------------------------------------------------------------------

    def connect(self, name: str, *, machine: Vitals | None = None) -> FakeSite:
        """The site opens its control stream and beats once."""
        session = Session(site(name), hello(name), since=self.clock.now())
        session.vitals = machine or vitals()
        self.sessions.add(session)
        return FakeSite(self, session)


class FakeSite:
    """A site behind its session: reads its commands, reports as events."""

    def __init__(self, world: World, session: Session) -> None:
        self.name = session.name
        self.session = session
        self._world = world

    def leave(self) -> None:
        self._world.sessions.remove(self.session)

    async def next(self) -> pb.ToSite:
        async with asyncio.timeout(PATIENCE):
            message = await self.session.outgoing()
        assert message is not None, self.session.closed_because
        return message

    async def hears(self, kind: str) -> Any:
        """The next command, which is of this kind."""
        message = await self.next()
        assert message.WhichOneof("body") == kind, message
        return getattr(message, kind)

    async def fence(self, run: JobRun) -> list[pb.ToSite]:
        """Wait until the run has handled all that was told; the commands that came meanwhile."""
        run.tell(ev.SiteFailed(site=self.name, task_id="fence", code="x", message="fence"))
        found: list[pb.ToSite] = []
        while (message := await self.next()).ack.task_id != "fence":
            found.append(message)
        return found

    # ---- reports -------------------------------------------------------------------------

    async def deploys(self, run: JobRun) -> pb.Deploy:
        """Be told to deploy, and say that all is ready."""
        told = await self.hears("deploy")
        run.tell(ev.SiteDeployed(site=self.name, ready=True))
        return told

    def refuses(self, run: JobRun, reason: str = "the policy allows nobody") -> None:
        run.tell(ev.SiteDeployed(site=self.name, ready=False, refusal=reason, code="policy-refused"))

    def updates(self, run: JobRun, task_id: str, **changes: Any) -> None:
        update = update_record(self.name, task_id, job=run.record.id, **changes)
        run.tell(ev.SiteUpdated(site=self.name, update=update))

    def fails(self, run: JobRun, task_id: str, message: str = "boom", code: str = "job-failed") -> None:
        run.tell(ev.SiteFailed(site=self.name, task_id=task_id, code=code, message=message))

    def stops(self, run: JobRun, *, clean: bool = True, reason: str = "") -> None:
        run.tell(ev.SiteStopped(site=self.name, clean=clean, reason=reason))


# ---- what a workflow says ------------------------------------------------------------------


def ready() -> pb.FromWorker:
    return pb.FromWorker(ready=pb.Ready())


def broadcast(
    round: int = 0,  # noqa: A002 - the field's word
    *,
    name: str = "train",
    sites: tuple[str, ...] = (),
    **changes: Any,
) -> pb.FromWorker:
    found = {
        "task_id": f"{name}/{round}/0",
        "name": name,
        "round": round,
        "rounds": 2,
        "expects": "full,diff",
        "model": payload(tensors(0, 0)),
        "scalars": b"{}",
    } | changes
    return pb.FromWorker(broadcast=pb.Broadcast(sites=sites, **found))


def close_round(round: int = 0, state: pb.Payload | None = None, **metrics: float) -> pb.FromWorker:  # noqa: A002 - the field's word
    part = state or payload(tensors(1, 1, name="state"))
    return pb.FromWorker(close=pb.CloseRound(round=round, state=part, metrics=metrics))


def finished(**results: pb.Payload) -> pb.FromWorker:
    files = {name.replace("__", "."): part for name, part in results.items()}
    return pb.FromWorker(finished=pb.Finished(results=files))


class Running:
    """A job that was brought to its first broadcast at some sites."""

    def __init__(self, world: World, run: JobRun, sites: dict[str, FakeSite], workflow: FakeProcess) -> None:
        self.world, self.run, self.sites, self.workflow = world, run, sites, workflow

    def __getitem__(self, name: str) -> FakeSite:
        return self.sites[name]


async def deploy(world: World, *names: str, targets: tuple[str, ...] = (), **changes: Any) -> Running:
    """A job whose workflow was told to start, ready at these sites, which are all its targets or some."""
    run = await world.run(targets=targets or names, **changes)
    sites = {name: world.connect(name) for name in names}
    run.choose(names)
    workflow = await world.launcher.process()
    for fake in sites.values():
        await fake.deploys(run)
    workflow.say(ready())
    await workflow.hears("start_workflow")
    return Running(world, run, sites, workflow)


async def train(world: World, *names: str, **changes: Any) -> Running:
    """`deploy`, and the first task is with every site."""
    running = await deploy(world, *names, **changes)
    running.workflow.say(broadcast())
    for fake in running.sites.values():
        await fake.hears("task")
    return running
