# SPDX-License-Identifier: Apache-2.0
"""The server: one port that every site and person dials. `Server(config).run()` until stopped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import resource
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict

from flprov import __version__
from flprov._base import Clock, SystemClock, canonical_json, hold_lock, write_private
from flprov.blobs import BlobStore
from flprov.errors import FlprovError, KitRefused
from flprov.jobs import JobState
from flprov.rpc import (
    Gate,
    Handler,
    Listener,
    Monitored,
    MonitoringState,
    OnRefusal,
    serve,
    serve_holds,
    serve_local,
    serve_monitoring,
)
from flprov.rpc import methods as m
from flprov.server.adminservice import AdminService
from flprov.server.config import ServerConfig
from flprov.server.identities import Identities
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.quotas import QuotaFile
from flprov.server.log import ServerLog
from flprov.server.logs import LogBook
from flprov.server.operations import CountedStore, Operations, Tally, metered
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.server.sights.scene import HeldTrust, NewestTrust, Scene
from flprov.server.sights.sites import site_documents
from flprov.server.siteservice import SiteService
from flprov.server.tracking import Tracking
from flprov.server.twin import verify_alone
from flprov.store import Row, Store, open_store
from flprov.wire import PROTOCOL
from flprov.wire.documents import ServerDocument, Space, StatusDocument
from flprov.workers import Launcher, ProcessLauncher, Warming, confinement_method

if TYPE_CHECKING:
    from flprov.server.operations.metrics import ServerMetrics

logger = logging.getLogger(__name__)

_WARM_AFTER = 1.0  # seconds after it serves: a machine that starts has enough to do
_FILES_A_SITE = 4  # two connections, and for a moment two more: one that comes back is there twice
_FILES_BESIDE = 2_000  # for people, jobs, blobs, and strangers who say nothing until they are hung up on
_STOP_GRACE = 1.0  # seconds for calls that are under way


class Serve(Protocol):
    """How a service is put on the network: `flprov.rpc.serve`, or the in-process transport."""

    def __call__(
        self,
        service: Mapping[m.Method, Handler],
        *,
        gate: Gate,
        on_refusal: OnRefusal,
    ) -> Awaitable[Listener]:
        """Start listening."""
        ...


class _Shared(TypedDict):
    """What both services work with."""

    clock: Clock
    registry: Registry
    sessions: Sessions
    jobs: Jobs
    blobs: BlobStore
    logs: LogBook


class Server:
    """Wires the parts; touches nothing until `run`."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        clock: Clock | None = None,
        serve_on: Serve | None = None,
        launcher: Launcher | None = None,
        store: Callable[[Path], Store] | None = None,
        local_status: bool = True,
    ) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._serve_on = serve_on or self._serve_mtls
        self._warming = Warming(
            "workflow", None if launcher else config.warm, delay=_WARM_AFTER, clock=self._clock
        )
        self._launcher = launcher or ProcessLauncher(warming=self._warming)
        self._open_store = store or (lambda folder: open_store(folder, clock=self._clock))
        self._local_status = local_status
        self._stopping = asyncio.Event()
        self._tally = Tally()
        self._monitoring = MonitoringState()
        self.ready = asyncio.Event()
        self.again = False  # unlike a site's agent, a server is started anew by whoever runs it
        self.port = 0

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            KitRefused: another server runs on this kit.
            StateDamaged: the state folder cannot be read.
            LocalError: the port is taken.
        """
        state = self.config.state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(hold_lock(state / "lock"))
            except BlockingIOError:
                raise KitRefused(
                    f"a server is already running on {self.config.kit.folder} (its lock is {state / 'lock'})",
                    hint=f"flprov server status {self.config.kit.folder}",
                ) from None
            await self._run(state)

    def stop(self) -> None:
        """Ask `run` to return."""
        self._stopping.set()

    async def _run(self, state: Path) -> None:
        store = CountedStore(self._open_store(state), self._tally, self._clock)
        try:
            await self._serve(state, store)
        finally:
            await store.close()

    async def _serve(self, state: Path, store: Store) -> None:
        self._started_at = self._clock.now()
        self._store = store
        table = metered(self._make_services(state, store), self._tally)
        listener = await self._listen(table, self._log.denials.note)
        self.port = listener.port
        self._identities.attach(listener)
        self._operations.start()
        self._log.start()
        self._jobs.series.listeners.append(self._tracking.told)
        self._tracking.start()
        scheduler = asyncio.create_task(self._jobs.run_scheduler(), name="scheduler")
        try:
            row = Row(who="server", what="server.start", object=self.config.kit.name)
            await store.commit([], row, urgent=True)  # it starts on a full disk, and not on a broken one
            self.ready.set()
            self._warming.prepare(self.config.python)
            async with self._local(state):
                await self._stopping.wait()
        finally:
            scheduler.cancel()
            for session in self._sessions:
                session.close("the server is stopping")
            await listener.stop(_STOP_GRACE)
            await self._identities.close()
            await self._operations.close()
            await self._jobs.close()
            await self._warming.close()
            await self._tracking.close()
            await self._log.close()
            await self._say_stop()

    async def _say_stop(self) -> None:
        """Write that it stops, which it does also when the disk takes nothing more."""
        row = Row(who="server", what="server.stop", object=self.config.kit.name)
        try:
            await self._store.commit([], row, urgent=True)
        except FlprovError as error:
            logger.warning("that the server stops could not be recorded: %s", error)

    def _make_services(self, state: Path, store: Store) -> dict[m.Method, Handler]:
        """The parts, each with what it was left with, and the handlers that they have between them."""
        kit, clock = self.config.kit, self._clock
        self._blobs = blobs = BlobStore(state / "blobs")
        logs = LogBook(state / "jobs")
        self._sessions = sessions = Sessions()
        registry = Registry(kit, store)
        registry.load()
        jobs = self._make_jobs(state, store, registry, logs)
        identities = self._make_identities(state, store, registry)
        operations = self._make_operations(store, registry)
        log = self._make_log(store, registry)
        shared = _Shared(clock=clock, registry=registry, sessions=sessions, jobs=jobs, blobs=blobs, logs=logs)
        site = SiteService(
            **shared,
            installation=_installation(state),
            heartbeat_seconds=self.config.heartbeat_seconds,
            note_trust=identities.trust.note_held,
            witnesses=log.witnesses,
            note_leaving=operations.orders.left,
        )
        scene = self._scene(registry)
        self._status = lambda: StatusDocument(server=self.describe(), sites=site_documents(scene))
        admin = AdminService(
            **shared,
            kit=kit,
            people=lambda: identities.around.trust.current.anchors["people"],
            describe=self.describe,
            commands=identities.around.commands,
            scene=scene,
        )
        return service_table(site, admin, identities, operations, log)

    def _make_jobs(self, state: Path, store: Store, registry: Registry, logs: LogBook) -> Jobs:
        self._jobs = jobs = Jobs(
            clock=self._clock,
            store=store,
            blobs=self._blobs,
            sessions=self._sessions,
            launcher=self._launcher,
            logs=logs,
            registry=registry,
            folder=state / "jobs",
            python=self.config.python,
            unconfined=self.config.unconfined,
            checkpoints=self.config.checkpoints,
        )
        self._tracking = Tracking(
            self.config.tracking, jobs=state / "jobs", state=state / "tracking", clock=self._clock
        )
        if self.config.settings is not None:
            jobs.scheduler.quotas = QuotaFile(self.config.settings)
        return jobs

    def _make_identities(self, state: Path, store: Store, registry: Registry) -> Identities:
        self._identities = identities = Identities(
            clock=self._clock,
            store=store,
            kit=self.config.kit,
            state=state,
            registry=registry,
            sessions=self._sessions,
            passphrase=self.config.ca_passphrase,
        )
        identities.load()
        return identities

    def _make_operations(self, store: Store, registry: Registry) -> Operations:
        self._operations = operations = Operations(
            server=self.config.kit.name,
            clock=self._clock,
            store=store,
            registry=registry,
            sessions=self._sessions,
            jobs=self._jobs,
            identities=self._identities,
            blobs=self._blobs,
            checkpoints=self.config.checkpoints,
            keep_jobs=self.config.keep_jobs,
        )
        operations.load()
        return operations

    def _make_log(self, store: Store, registry: Registry) -> ServerLog:
        trust = self._identities.around.trust
        self._log = log = ServerLog(
            clock=self._clock,
            store=store,
            registry=registry,
            sessions=self._sessions,
            project_id=self.config.kit.project_id,
            anchors=lambda: trust.current.anchors["sites"],
        )
        log.load()
        return log

    def _scene(self, registry: Registry) -> Scene:
        """Where documents about sites take what they say from."""
        identities, kit = self._identities, self.config.kit

        def newest() -> NewestTrust:
            trust = identities.around.trust.current
            return NewestTrust(version=trust.version, made_at=trust.says.made_at)

        def held(identity: str) -> HeldTrust:
            found = identities.trust.holding(identity)
            return HeldTrust(version=found.version, since=found.at)

        return Scene(
            clock=self._clock,
            registry=registry,
            sessions=self._sessions,
            jobs=self._jobs,
            kit_made_at=kit.made_at,
            newest_trust=newest,
            held_trust=held,
            warnings=identities.warnings,
            refused=self._log.refused,
            complete=self._operations.complete,
        )

    async def _listen(self, table: Mapping[m.Method, Handler], on_refusal: OnRefusal) -> Listener:
        """Take up the jobs and listen; not the one without the other: a twin may be at work on them."""
        self._jobs.load()
        try:
            return await self._serve_on(table, gate=self._identities.gate, on_refusal=on_refusal)
        except BaseException:
            await self._jobs.close()
            raise

    def _local(self, state: Path) -> contextlib.AbstractAsyncContextManager[None]:
        """Answer `flprov server status KIT` on this machine, unless told not to."""
        if not self._local_status:
            return contextlib.nullcontext()
        return self._answer_here(state)

    @contextlib.asynccontextmanager
    async def _answer_here(self, state: Path) -> AsyncIterator[None]:
        """How it is, and a hold on its blobs for whoever backs them up."""
        monitored = Monitored(metrics=lambda: self._metrics.text(), health=lambda: self._metrics.health())
        async with (
            serve_monitoring(self.config.metrics, monitored) as self._monitoring,
            serve_local(state, lambda: canonical_json(self.describe())),
            serve_holds(state, self._blobs.hold, lambda: self._jobs.collect(self._blobs.release())),
        ):
            yield

    @functools.cached_property
    def _metrics(self) -> ServerMetrics:
        from flprov.server.operations.metrics import ServerMetrics  # late: nobody may ever ask

        return ServerMetrics(clock=self._clock, status=self._status, jobs=self._jobs, tally=self._tally)

    async def _serve_mtls(
        self,
        service: Mapping[m.Method, Handler],
        *,
        gate: Gate,
        on_refusal: OnRefusal,
    ) -> Listener:
        identities = self._identities
        trust, own = identities.around.trust, identities.renewals.own.credential
        await verify_alone(self.config.kit, own, trust.current, self._clock)
        warn_of_few_files(len(self._identities.around.registry.sites))
        return await serve(
            service,
            listen=self.config.listen,
            chain_pem=own.chain_pem,
            private_pem=own.private_pem,
            anchors=trust.peers,
            clock=self._clock,
            gate=gate,
            on_refusal=on_refusal,
        )

    def describe(self) -> ServerDocument:
        """The server's own part of `status`."""
        kit = self.config.kit
        states = [run.record.state for run in self._jobs.going()]
        usage = shutil.disk_usage(self.config.state)
        host = self.config.listen.rpartition(":")[0]
        return ServerDocument(
            name=kit.name,
            project=kit.project,
            trust_domain=kit.trust_domain,
            version=__version__,
            protocol=PROTOCOL,
            started_at=self._started_at,
            cert_not_after=self._identities.renewals.own.credential.not_after,
            listen=f"{host}:{self.port}",
            jobs_running=sum(not s.terminal and s is not JobState.QUEUED for s in states),
            jobs_queued=sum(s is JobState.QUEUED for s in states),
            log_index=self._store.head,
            disk=Space(total=usage.total, available=usage.free),
            confinement="unconfined" if self.config.unconfined else confinement_method(),
            warm=self._warming.describe(),
            warnings=self._identities.warnings(),
            log_warnings=self._log.warnings(),
            metrics=self._monitoring.said,
            tracking=self._tracking.status(),
            **self._operations.described(),
        )


def warn_of_few_files(sites: int) -> None:
    """Say it when so many sites may use up the files that may be open here: nobody else gets in then."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sites * _FILES_A_SITE + _FILES_BESIDE
    if most != resource.RLIM_INFINITY and most < needed:
        logger.warning(
            "this process may have %d files open, and %d sites may need %d: LimitNOFILE= in the service file,"
            " or ulimit -Hn, see docs/many-sites.md",
            most,
            sites,
            needed,
        )


def service_table(
    site: SiteService, admin: AdminService, identities: Identities, operations: Operations, log: ServerLog
) -> dict[m.Method, Handler]:
    """Every row of the method table with its handler."""
    return (
        identities.table()
        | operations.table()
        | log.table()
        | {
            m.CONTROL: site.control,
            m.FETCH_BLOB: site.fetch_blob,
            m.COMPARE_BLOB: site.compare_blob,
            m.SEND_BLOB: site.send_blob,
            m.SEND_LOGS: site.send_logs,
            m.SEND_POINTS: site.send_points,
            m.STATUS: admin.status,
            m.LIST_SITES: admin.list_sites,
            m.SHOW_SITE: admin.show_site,
            m.WHY_SITE: admin.why_site,
            m.UPLOAD_APP: admin.upload_app,
            m.LIST_APPS: admin.list_apps,
            m.SHOW_APP: admin.show_app,
            m.DOWNLOAD_APP: admin.download_app,
            m.SUBMIT_JOB: admin.submit_job,
            m.PLAN_JOB: admin.plan_job,
            m.LIST_JOBS: admin.list_jobs,
            m.SHOW_JOB: admin.show_job,
            m.WATCH_JOB: admin.watch_job,
            m.WHY_JOB: admin.why_job,
            m.JOB_LOGS: admin.job_logs,
            m.WATCH_SERIES: admin.watch_series,
            m.ABORT_JOB: admin.abort_job,
            m.DELETE_JOB: admin.delete_job,
            m.LIST_RESULTS: admin.list_results,
            m.DOWNLOAD_RESULT: admin.download_result,
        }
    )


def _installation(state: Path) -> str:
    """Made once per state folder; tells two machines with one kit apart."""
    path = state / "installation"
    if not path.exists():
        write_private(path, secrets.token_hex(16).encode())
    return path.read_text()
