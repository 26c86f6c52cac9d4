# SPDX-License-Identifier: Apache-2.0
"""A federation inside one process: the real server, agents and workers over the in-process transport.

Not another engine: the same scheduler, checks, signatures and aggregation as on a network. What
differs is that calls cross no socket and that records live in memory. Job code runs in processes
of its own, confined as always.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import Clock, SystemClock
from flprov.admin import Admin
from flprov.agent import Agent, load_agent_config
from flprov.errors import LocalError, Misuse, NotFound
from flprov.kits import load_kit, provision
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty, Validity
from flprov.rpc import Connection, InProcessNetwork
from flprov.server import Server, load_server_config
from flprov.store import MemoryStore
from flprov.wire.documents import JobDocument

MOST_SITES = 256  # each has a process of its own while a job runs
_ORG = "simulation"
_PERSON = "you"
_POLICY = f"allow: {{organisations: [{_ORG}]}}\n"


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate."""

    app: Path
    sites: int
    output: Path  # results go here
    settings: Mapping[str, str] = field(default_factory=dict)  # as for `job submit --set`
    datasets: Mapping[str, Path] = field(default_factory=dict)  # the same paths at every site
    site_datasets: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)  # site-1 -> its own, too
    min_sites: int | None = None


def simulate(
    wanted: Simulation, *, on_change: Callable[[JobDocument], None] | None = None, clock: Clock | None = None
) -> tuple[JobDocument, list[Path]]:
    """Run an app over `sites` simulated sites; returns the job once it has ended, and the result files.

    Raises:
        Misuse: too few or too many sites.
        NotFound: there are datasets for a site that there is not.
        ConfigError: job.yml has mistakes.
    """
    if not 1 <= wanted.sites <= MOST_SITES:
        raise Misuse(f"{wanted.sites} sites; the simulator runs 1 to {MOST_SITES}")
    for site in wanted.site_datasets:
        if site not in (names := _names(wanted.sites)):
            raise NotFound(f"no site {site} here (they are {names[0]} to {names[-1]})")
    clock = clock or SystemClock()
    with tempfile.TemporaryDirectory(prefix="flprov-simulation-") as folder:
        kits = _provision(Path(folder), wanted, clock.now())
        with _running(kits, wanted.sites, clock) as connect:
            person = load_kit(kits / _PERSON, now=clock.now())
            with contextlib.closing(Admin(person, connect(), clock=clock)) as admin:
                job = admin.submit(wanted.app, settings=wanted.settings, min_sites=wanted.min_sites)
                done = admin.wait(job.job_id, on_change=on_change)
                files, _ = admin.download(job.job_id, wanted.output)
                return done, files


def _provision(folder: Path, wanted: Simulation, now: datetime) -> Path:
    project = Project(
        name="simulation",
        trust_domain="simulation.invalid",
        organisations=(Organisation(name=_ORG),),
        server=ServerParty(name="server", org=_ORG, listen="127.0.0.1:0", endpoints=("localhost:1",)),
        sites=tuple(SiteParty(name=name, org=_ORG) for name in _names(wanted.sites)),
        people=(Person(name=_PERSON, org=_ORG, role="project_admin"),),
        validity=Validity(),
        source=folder / "project.yml",
    )
    provision(project, folder / "workspace", now=now)
    kits = folder / "workspace" / "kits"
    for name in _names(wanted.sites):
        mine = {**wanted.datasets, **wanted.site_datasets.get(name, {})}
        datasets = {data: str(path.resolve()) for data, path in mine.items()}
        local = kits / f"{name}.local"
        local.mkdir()
        (local / "policy.yml").write_text(_POLICY)
        if datasets:
            text = json.dumps({"datasets": datasets}, ensure_ascii=False)  # which is YAML too
            (local / "site.yml").write_text(text, encoding="utf-8")
    return kits


def _names(sites: int) -> list[str]:
    return [f"site-{number}" for number in range(1, sites + 1)]


@contextlib.contextmanager
def _running(kits: Path, sites: int, clock: Clock) -> Iterator[Callable[[], Connection]]:
    """Server and agents in a loop of their own thread; yields how the person connects."""
    ready: Future[Callable[[], Connection]] = Future()
    federation = _Federation(kits, _names(sites), clock, ready)
    thread = threading.Thread(target=lambda: asyncio.run(federation.run()), name="simulation", daemon=True)
    thread.start()
    try:
        yield ready.result()
    finally:
        federation.stop()
        thread.join()


class _Federation:
    """The parties of one simulation."""

    def __init__(
        self, kits: Path, names: list[str], clock: Clock, ready: Future[Callable[[], Connection]]
    ) -> None:
        self._kits = kits
        self._names = names
        self._clock = clock
        self._ready = ready
        self._network: InProcessNetwork | None = None
        self._parties: list[Server | Agent] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Run until `stop`; what goes wrong at the start comes out of the future."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._run()
        except Exception as error:  # the thread's outermost loop
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                raise

    def stop(self) -> None:
        """From any thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(lambda: [party.stop() for party in self._parties])

    async def _run(self) -> None:
        now = self._clock.now()
        server = Server(
            load_server_config(self._kits / "server", now=now),
            serve_on=self._serve,
            store=lambda _: MemoryStore(clock=self._clock),
            local_status=False,
        )
        agents = [self._agent(name, now) for name in self._names]
        self._parties = [server, *agents]
        running = [asyncio.create_task(party.run()) for party in self._parties]
        try:
            await self._started(server, agents, running)
            person = load_kit(self._kits / _PERSON, now=now).identity
            network = self._network
            assert network is not None
            self._ready.set_result(lambda: network.connect(person))
            await asyncio.gather(*running)
        finally:
            for party in self._parties:
                party.stop()
            await asyncio.gather(*running, return_exceptions=True)

    async def _serve(self, service: object, **options: object) -> InProcessNetwork:
        self._network = InProcessNetwork(service, **options)  # type: ignore[arg-type]
        return self._network

    def _agent(self, name: str, now: datetime) -> Agent:
        config = load_agent_config(self._kits / name, now=now)

        def connect() -> Connection:
            if self._network is None:
                raise LocalError("the simulated server has not started")
            return self._network.connect(config.kit.identity)

        return Agent(
            config,
            connect_to=connect,
            store=lambda _: MemoryStore(clock=self._clock),
            local_status=False,
            orphan_seconds=0.0,  # nobody comes back to a simulation
        )

    async def _started(self, server: Server, agents: list[Agent], running: list[asyncio.Task[None]]) -> None:
        for ready in (server.ready, *(agent.ready for agent in agents)):
            waiting = asyncio.ensure_future(ready.wait())
            await asyncio.wait({waiting, *running}, return_when=asyncio.FIRST_COMPLETED)
            for party in running:
                if party.done():
                    waiting.cancel()
                    party.result()
