# SPDX-License-Identifier: Apache-2.0
"""The site's agent: dials the server, runs its jobs, answers for what leaves the building."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import platform
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flprov import __version__
from flprov._base import Clock, SystemClock, Tasks, canonical_json, hold_lock, to_iso, write_private
from flprov.agent.bulk import Bulk
from flprov.agent.config import AgentConfig
from flprov.agent.control import Control, LinkState
from flprov.agent.environment import Environment
from flprov.agent.held import SiteJobs
from flprov.agent.outlook import Outlook, own_ladder, own_why, say_link
from flprov.agent.renewal import Renewal
from flprov.agent.trust import SiteTrust
from flprov.agent.vitals import GPUs, read_vitals
from flprov.agent.witness import Witnessing
from flprov.blobs import BlobStore
from flprov.errors import FlprovError, KitRefused
from flprov.kits import Credential
from flprov.pki import Anchors
from flprov.rpc import Connection, Monitored, MonitoringState, dialling, serve_local, serve_monitoring
from flprov.store import Row, Store, open_store
from flprov.wire import PROTOCOL, pb
from flprov.wire.documents import LinkStatus, SiteStatusDocument, Vitals
from flprov.workers import Launcher, ProcessLauncher, Warming

if TYPE_CHECKING:
    from flprov.agent.metrics import SiteMetrics

logger = logging.getLogger(__name__)

_WARM_AFTER = 1.0  # seconds after the first welcome: a machine that starts has enough to do


class Agent:
    """Wires the parts; touches nothing until `run`."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        clock: Clock | None = None,
        connect_to: Callable[[], Connection] | None = None,
        launcher: Launcher | None = None,
        store: Callable[[Path], Store] | None = None,
        local_status: bool = True,
        orphan_seconds: float = 60.0,
    ) -> None:
        self.config = config
        self._clock = clock or SystemClock()
        self._connect = connect_to or self._connect_mtls
        self._warming = Warming(
            "site", None if launcher else config.warm, delay=_WARM_AFTER, clock=self._clock
        )
        self._launcher = launcher or ProcessLauncher(warming=self._warming)
        self._open_store = store or (lambda folder: open_store(folder, clock=self._clock))
        self._local_status = local_status
        self._orphan_seconds = orphan_seconds  # so long jobs' processes wait for an agent that was killed
        self._stopping = asyncio.Event()
        self.ready = asyncio.Event()  # set by the first Welcome
        self.again = False  # after `run`: this process is to start anew, as an admin asked
        self._stop_reason = "stopped by its operator"
        self._started_at = self._clock.now()
        self._standing = pb.Standing()
        self._environment = Environment()
        self._gpus = GPUs()
        self._vitals: Vitals | None = None
        self._dialling: tuple[tuple[Credential, Anchors], Callable[[], Connection]] | None = None
        self._monitoring = MonitoringState()

    async def run(self) -> None:
        """Serve until `stop`.

        Raises:
            KitRefused: another agent uses this kit, here or on another machine; or its certificate has
                expired, and no renewed one is valid.
            Refused: the server does not take this site.
        """
        state = self.config.state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(hold_lock(state / "lock"))
            except BlockingIOError:
                raise KitRefused(
                    f"an agent is already running on {self.config.kit.folder} (its lock is {state / 'lock'})",
                    hint=f"flprov site status {self.config.kit.folder}",
                ) from None
            store = self._open_store(state)
            try:
                await self._run(state, store)
            finally:
                await store.close()

    def stop(self) -> None:
        """Ask `run` to return; the server is told, and job processes here are ended first."""
        self._stopping.set()

    def _halt(self, order: pb.StopSite) -> None:
        """An admin wants this agent to end, or to start anew; then the jobs' processes live on."""
        what = "restart" if order.restart else "stop"
        logger.info("the server tells this agent to %s: %s", what, order.reason[:200])
        self._stop_reason = order.reason[:200] or f"told to {what}"
        self.again = order.restart
        self._stopping.set()

    async def _run(self, state: Path, store: Store) -> None:
        blobs = BlobStore(state / "blobs")
        self._bulk = bulk = Bulk(self._connect, blobs, self._clock)
        self._trust = trust = SiteTrust(self.config.kit, state)
        trust.load(self._clock.now())
        self._renewal = renewal = Renewal(
            kit=self.config.kit,
            state=state,
            anchors=lambda: trust.sites,
            ask=bulk.ask,
            switch=self._switch,
            store=store,
            clock=self._clock,
        )
        self._installation = _installation(state)
        self._witness = witness = Witnessing(
            kit=self.config.kit,
            store=store,
            clock=self._clock,
            credential=lambda: renewal.credential,
            report=lambda message: self._control.report(message),
        )
        witness.load()
        self._jobs = jobs = SiteJobs(
            config=self.config,
            clock=self._clock,
            store=store,
            blobs=blobs,
            bulk=bulk,
            launcher=self._launcher,
            gpus=self._gpus,
            trust=trust,
            report=lambda message: self._control.report(message),
            leases_changed=lambda: self._control.beat_soon(),
            orphan_seconds=self._orphan_seconds,
        )
        self._control = Control(
            connect=self._connect,
            hello=self._hello,
            vitals=self._read_vitals,
            welcome=self._welcome,
            obey=self._obey,
            clock=self._clock,
        )
        await jobs.load()  # may report: what ran here before goes on
        await self._say(store, Row(who="site", what="site.start", object=self.config.kit.name))
        await self._serve(state, store)

    async def _serve(self, state: Path, store: Store) -> None:
        """Hold the link until the agent is to stop; then end what there is, and say goodbye."""
        async with contextlib.AsyncExitStack() as stack:
            if self._local_status:
                await self._answer_here(stack, state)
            tasks = Tasks("renewal")
            tasks.spawn(self._renewal.run())
            link = asyncio.create_task(self._control.run(), name="control")
            try:
                await self._until_stopped(link)
            finally:
                await tasks.close()
                await self._witness.close()
                await (self._jobs.leave() if self.again else self._jobs.close())
                await self._warming.close()
                await self._control.part(link)
                await self._bulk.close()
                row = Row(who="site", what="site.stop", object=self.config.kit.name, reason=self._stop_reason)
                await self._say(store, row)

    async def _say(self, store: Store, row: Row) -> None:
        """Write that it starts or stops, which it does also when the disk takes nothing more."""
        try:
            await store.commit([], row, urgent=True)
        except FlprovError as error:
            logger.warning("%s could not be recorded: %s", row.what, error)

    async def _until_stopped(self, link: asyncio.Task[None]) -> None:
        """Wait; then say goodbye, or raise what ended the link for good."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({link, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not link.done():
            self._control.leave(self._stop_reason, back=self.again)
            return
        error = link.exception()
        if error is not None:
            self._stop_reason = str(error)[:500]
            raise error

    def _connect_mtls(self) -> Connection:
        """With our certificate and their CAs of now; what is made of these is made again when they change."""
        shown = self._renewal.credential, self._trust.servers
        if self._dialling is None or self._dialling[0] != shown:
            credential, servers = shown
            dial = dialling(
                self.config.kit.endpoints,
                chain_pem=credential.chain_pem,
                private_pem=credential.private_pem,
                server_anchors=servers,
                route=self.config.route,
            )
            self._dialling = shown, dial
        return self._dialling[1]()

    def _switch(self, credential: Credential) -> None:
        """The control stream stays as it is: the server knows that its site has renewed."""
        self._bulk.renew(credential, self._trust.servers)

    def _believe(self, message: pb.TrustBundle) -> None:
        """At once, and not beside: what the server sends next may need it."""
        answer = self._trust.take(message, self._clock.now())
        if answer is not None:
            self._switch(self._renewal.credential)
            self._control.report(answer)

    def _welcome(self, welcome: pb.Welcome) -> None:
        self._standing = welcome.standing
        self._jobs.welcome(list(welcome.jobs))
        self._renewal.connected()
        if welcome.HasField("head"):
            self._witness.take(welcome.head)
        self.ready.set()

    def _hello(self) -> pb.Hello:
        return pb.Hello(
            protocol=PROTOCOL,
            version=__version__,
            installation=self._installation,
            host=platform.node()[:200],
            manifest=self.config.kit.manifest_digest,
            jobs=self._jobs.ids,
            trust=self._trust.version,
            witness=self._witness.begin(),
            disputed=self._witness.disputed,
            started_at=to_iso(self._started_at),
        )

    async def _read_vitals(self) -> Vitals:
        self._vitals = vitals = await asyncio.to_thread(self._look_around)
        if self.ready.is_set():
            self._warming.prepare(Path(vitals.python))
        return vitals

    def _look_around(self) -> Vitals:
        config = self.config
        found = read_vitals(
            self._gpus,
            state=config.state,
            policy=config.policy,
            settings=config.settings,
            python=config.python,
            jobs=tuple(self._jobs.running),
            held=self._jobs.leases.all,
            warm=self._warming.describe(),
        )
        return self._environment.observe(found, config.settings, self._clock.now())

    def _obey(self, message: pb.ToSite) -> None:
        kind = message.WhichOneof("body")
        if kind == "deploy":
            self._jobs.deploy(message.deploy)
        elif kind == "task":
            self._jobs.order(message.task)
        elif kind == "upcoming":
            self._jobs.foretold(message.upcoming)
        elif kind == "ack":
            self._jobs.acknowledged(message.ack)
        elif kind == "closed":
            self._jobs.closed(message.closed)
        elif kind == "stop":
            self._jobs.stop(message.stop.job_id, message.stop.reason, message.stop.grace_seconds)
        elif kind == "trust":
            self._believe(message.trust)
        elif kind == "head":
            self._witness.take(message.head)
        elif kind == "renew":
            self._renewal.renew_now(message.renew.reason)
        elif kind == "halt":
            self._halt(message.halt)
        elif kind == "standing":
            self._standing = message.standing
        elif kind == "probe":
            self._jobs.probe(message.probe)
        else:
            logger.warning("the server sent %s, which this version does not know", kind or "an empty message")

    async def _answer_here(self, stack: contextlib.AsyncExitStack, state: Path) -> None:
        """Tell people and monitoring on this machine how it is."""
        self._monitoring = await stack.enter_async_context(self._serve_metrics())
        await stack.enter_async_context(serve_local(state, self.snapshot_json))

    def _serve_metrics(self) -> contextlib.AbstractAsyncContextManager[MonitoringState]:
        monitored = Monitored(metrics=lambda: self._metrics.text(), health=lambda: self._metrics.health())
        return serve_monitoring(self.config.metrics, monitored)

    @functools.cached_property
    def _metrics(self) -> SiteMetrics:
        from flprov.agent.metrics import SiteMetrics  # late: nobody may ever ask

        return SiteMetrics(self.snapshot, lambda: self._bulk.sending)

    def snapshot_json(self) -> bytes:
        """What `flprov site status KIT` prints."""
        return canonical_json(self.snapshot())

    def snapshot(self) -> SiteStatusDocument:
        """How this site is, as far as it can know itself."""
        link, kit, own = self._control.link, self.config.kit, self.outlook()
        why, hint = own_why(own)
        return SiteStatusDocument(
            name=kit.name,
            org=kit.org,
            project=kit.project,
            version=__version__,
            server=kit.endpoints,
            connected=link.state is LinkState.CONNECTED,
            link=LinkStatus(
                state=link.state.value,
                since=link.since,
                reason=link.reason,
                tries=link.tries,
                next_at=link.next_at,
            ),
            cert_not_after=self._renewal.credential.not_after,
            renewal=self._renewal.status,
            policy=str(self.config.policy),
            site_settings=str(self.config.settings),
            proxy=str(self.config.route),
            jobs=self._jobs.states(),
            vitals=self._vitals,
            ladder=own_ladder(own),
            why=why,
            hint=hint,
            drained=own.drained,
            retrying=tuple(self._retrying()),
            witness=self._witness.status,
            metrics=self._monitoring.said,
        )

    def outlook(self) -> Outlook:
        """How this site sees itself now."""
        kit, credential = self.config.kit, self._renewal.credential
        return Outlook(
            kit=kit.folder,
            made_at=kit.made_at,
            link=self._control.link,
            issued_at=credential.issued_at,
            not_after=credential.not_after,
            renewal=self._renewal.status,
            trust=self._trust.version,
            vitals=self._vitals,
            jobs=self._jobs.states(),
            since=self._jobs.since(),
            drained=self._standing.drained,
            now=self._clock.now(),
        )

    def _retrying(self) -> Iterator[str]:
        """Every loop that tries something again: what, why, how often and when next."""
        link, renewal = self._control.link, self._renewal.status
        if link.state is not LinkState.CONNECTED and link.tries:
            yield f"the link to the server: {say_link(link, self._clock.now())}"
        if renewal.last_error:
            when = f", next at {renewal.next_at:%Y-%m-%d %H:%M:%S} UTC" if renewal.next_at else ""
            yield f"renewing the certificate: {renewal.last_error} (try {renewal.tries}{when})"
        if self._bulk.trouble:
            yield f"transfers: {self._bulk.trouble}"


def _installation(state: Path) -> str:
    """Made once per state folder; tells two machines with one kit apart.

    It is bound to this machine, so that a copy of the folder on another machine differs too.
    """
    path = state / "installation"
    if not path.exists():
        write_private(path, secrets.token_hex(16).encode())
    machine = f"{path.read_text()}|{platform.node()}"
    return hashlib.sha256(machine.encode()).hexdigest()[:32]
