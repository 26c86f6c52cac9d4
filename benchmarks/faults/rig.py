# SPDX-License-Identifier: Apache-2.0
"""A real network that things are done to, and everything that was seen meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from faults.history import (
    Acknowledged,
    Action,
    Books,
    Expectation,
    History,
    JobClaim,
    Left,
    LogLine,
    Sample,
    Seen,
)
from faults.sightings import see_files, see_processes
from flprov._base import SystemClock, to_document
from flprov.admin import Admin, open_admin
from flprov.errors import FlprovError, NotFound, ServerUnavailable, TimedOut
from flprov.jobs import JobState
from flprov.store import open_store, verify_chain

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "network"))

from harness import Network  # noqa: E402

T = TypeVar("T")

TERMINAL = frozenset(state.value for state in JobState if state.terminal)
SERVER_KINDS, SITE_KINDS = ("server", "workflow"), ("agent", "worker", "shim")
KINDS = (*SERVER_KINDS, *SITE_KINDS)
_RECORDS = ("job", "round", "token", "update", "app", "enrolment", "answer", "lease", "drain")
_EVERY = 0.3  # seconds between two looks at the status
_UNTIL_CLEAN = 10.5  # seconds after a job's end for which a look is repeated until nothing is left
_READY = 60.0  # seconds for a start that is given up; what is too slow is told by the case
_PATIENCE = 90.0  # seconds for a job to end once nothing is done to it any more


class Rig:
    """A network of three sites, what is done to it, and the history of that."""

    def __init__(self, folder: Path, name: str, *, sites: int = 3, links: Any = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.name = name
        self.links = links  # a BadLinks of tests/links/netns.py, entered; None: loopback
        if links is None:
            self.network = Network(folder, sites)
        else:
            self.network = Network(folder, sites, listen=links.server, host=links.server)
            self.network.command = links.command
        self.sampling = True
        self.died: list[str] = []  # parties that had ended by themselves, when all was stopped
        self.sites = list(self.network.names)
        self.restarts: list[float] = []  # seconds until the server was ready again
        self.detection, self.death = 25.0, 3.0  # docs/what-happens-when.md says 20 s and at once
        self._actions: list[Action] = []
        self._acknowledged: list[Acknowledged] = []
        self._samples: list[Sample] = []
        self._left: list[Left] = []
        self._ended: dict[str, float] = {}
        self._models: dict[str, str] = {}
        self._expected: dict[str, Expectation] = {}
        self._with_sites = True
        self._lock = threading.Lock()
        self._up = threading.Event()  # the server is ready
        self._over = threading.Event()
        self._sampler: threading.Thread | None = None
        self._mine = threading.local()  # an admin client is for one thread

    # ---- life --------------------------------------------------------------------------------

    def without_sites(self) -> Rig:
        """The same, with its sites still down at the beginning."""
        self._with_sites = False
        return self

    def __enter__(self) -> Rig:
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        self.start("server")
        if self._with_sites:
            for site in self.sites:
                self.start(site, ready=False)
            for site in self.sites:
                self.network.running[site].wait_ready(_READY)
                self.note("ready", site)
        if self.sampling:
            self._sampler = threading.Thread(target=self._sample_on, daemon=True)
            self._sampler.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop everything; a second call does nothing."""
        self._over.set()
        self._up.set()
        if self._sampler is not None:
            self._sampler.join(20)
            self._sampler = None
        self.drop_admin()
        for party, running in self.network.running.items():
            code = running.process.poll()
            if code is not None:
                self.died.append(f"{party}: exit {code}: {_last_line(running.log)}")
            self.note("stop", party)
        self.network.close()

    def note(self, what: str, party: str, detail: str = "") -> None:
        """Put an action into the history."""
        with self._lock:
            self._actions.append(Action(at=time.time(), what=what, party=party, detail=detail))

    def acknowledge(self, what: str, about: str, *, token: str = "", data: str = "") -> None:
        """Put an acknowledgement into the history."""
        with self._lock:
            self._acknowledged.append(
                Acknowledged(at=time.time(), what=what, object=about, token=token, data=data)
            )

    def expect(self, job: str, expectation: Expectation) -> None:
        """How a job has to end."""
        self._expected[job] = expectation

    # ---- parties -----------------------------------------------------------------------------

    def start(self, party: str, *, ready: bool = True) -> None:
        """Start the server or a site, as systemd would."""
        self.note("start", party)
        began = time.monotonic()
        running = self.network.start(party, ready=False)
        if ready:
            running.wait_ready(_READY)
            self.note("ready", party)
            self.restarts.append(time.monotonic() - began)
        if party == "server":
            self._up.set()

    def kill(self, party: str) -> None:
        """SIGKILL the server or a site's agent."""
        if party == "server":
            self._up.clear()
        self.note("kill", party)
        self.network.kill(party)

    def restart(self, party: str) -> None:
        """Kill it and start it again at once."""
        self.kill(party)
        self.start(party, ready=party == "server")
        if party != "server":
            self.note("ready", party)

    def strike(
        self, kind: str, chance: random.Random, *, patience: float = 3.0, spare: Collection[str] = ()
    ) -> Seen | None:
        """SIGKILL one process of this kind, chosen by chance; the party's own are started again.

        Args:
            kind: one of KINDS.
            chance: chooses.
            patience: seconds.
            spare: the parties at which no job's process may be hit.

        Returns:
            Who was hit; None when there was none within `patience` seconds.
        """
        if kind in ("server", "agent"):
            party = "server" if kind == "server" else chance.choice(self.sites)
            pid = self.network.running[party].process.pid
            self.restart(party)
            return Seen(pid=pid, started=0, party=party, job="", kind=kind)
        deadline = time.monotonic() + patience
        pick = chance.random()
        while time.monotonic() < deadline:
            there = [s for s in see_processes(self.folder) if _is(s, kind) and s.party not in spare]
            there.sort(key=lambda s: s.party)
            if there:
                seen = there[int(pick * len(there))]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(seen.pid, signal.SIGKILL)
                    self.note("strike", seen.party, f"{kind} {seen.pid} of {seen.job}")
                    return seen
            time.sleep(0.05)
        return None

    # ---- a person's calls --------------------------------------------------------------------

    def insist(self, call: Callable[[Admin], T], seconds: float = 60.0) -> T:
        """Make a call again until the server has answered it, as a person would."""
        deadline = time.monotonic() + seconds
        while True:
            self._up.wait(seconds)
            try:
                if getattr(self._mine, "admin", None) is None:
                    self._mine.admin = open_admin(self.network.kit("ada"))
                return call(self._mine.admin)
            except ServerUnavailable:
                if time.monotonic() > deadline:
                    raise
                self.drop_admin()
                time.sleep(0.05)

    def drop_admin(self) -> None:
        """Let go of this thread's connection; the next call opens another one."""
        admin = getattr(self._mine, "admin", None)
        self._mine.admin = None
        if admin is not None:
            with contextlib.suppress(FlprovError):
                admin.close()

    def submit(self, app: str | Path, token: str, **options: Any) -> str:
        """Hand a job in, with the same token as often as it takes."""
        job = self.insist(lambda admin: admin.submit(app, token=token, **options).job_id)
        self.acknowledge("submit", job, token=token)
        return job

    def abort(self, job: str) -> bool:
        """Have a job aborted; False when it had ended before."""
        try:
            self.insist(lambda admin: admin.abort(job, reason="the campaign wants it"))
        except NotFound:
            return False
        self.acknowledge("abort", job)
        return True

    def wait(self, job: str, seconds: float = _PATIENCE) -> str:
        """The state in which a job has ended; the one in which it hangs after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                state = self.insist(lambda admin: admin.wait(job, timeout=left).state)  # noqa: B023
            except TimedOut:
                return self.insist(lambda admin: admin.job(job).state)
            if state in TERMINAL:
                self._ended.setdefault(job, time.time())
                return state

    def take_result(self, job: str) -> str:
        """Download a job's results; the digest of its model, empty when it has none."""
        from hashlib import sha256

        model = self.take_files(job).get("model.safetensors")
        digest = sha256(model).hexdigest() if model is not None else ""
        if digest:
            self.note_result(job, digest)
        return digest

    def note_result(self, job: str, digest: str) -> None:
        """What a job has come to, as it was downloaded."""
        self._models[job] = digest
        self.acknowledge("result", job, data=digest)

    def take_files(self, job: str) -> dict[str, bytes]:
        """Download a job's results; the bytes of each file."""
        from flprov.admin.download import download_results

        folder = self.folder / "results" / f"{job}-{time.monotonic_ns()}"
        self.insist(lambda admin: download_results(admin._link, job, folder))
        found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        shutil.rmtree(folder)
        return found

    # ---- looking -----------------------------------------------------------------------------

    def _sample_on(self) -> None:
        admin: Admin | None = None
        while not self._over.wait(_EVERY):
            try:
                if not self._up.is_set():
                    continue
                admin = admin or open_admin(self.network.kit("olga"))
                sample = self._sample(admin)
                with self._lock:
                    self._samples.append(sample)
            except FlprovError:
                if admin is not None:
                    admin.close()
                admin = None
        if admin is not None:
            admin.close()

    def _sample(self, admin: Admin) -> Sample:
        asked = time.time()
        status = admin.status()
        jobs = {job.id: _claim(job) for job in admin.jobs()}
        answered = time.time()
        return Sample(
            asked=asked,
            answered=answered,
            sites={site.name: site.state for site in status.sites},
            jobs=jobs,
            processes=see_processes(self.folder),
        )

    def look_until_clean(self) -> float:
        """Look at what ended jobs have left until it is nothing, or 10 s have passed; how long it took."""
        last = max(self._ended.values(), default=time.time())
        while True:
            look = self._look()
            dirty = (
                [p for p in look.processes if p.job in look.ended] or look.files or any(look.leases.values())
            )
            if not dirty or look.at - last > _UNTIL_CLEAN:
                self._left.append(look)
                return look.at - last
            time.sleep(0.1)

    def _look(self) -> Left:
        status = self.insist(lambda admin: admin.status())
        leases = {site.name: tuple(job for job in site.jobs if job in self._ended) for site in status.sites}
        return Left(
            at=time.time(),
            ended=dict(self._ended),
            processes=see_processes(self.folder),
            files=see_files(self.folder, set(self._ended)),
            leases=leases,
        )

    # ---- the history -------------------------------------------------------------------------

    def history(self) -> History:
        """Stop the network and read everybody's books."""
        self.close()
        return History(
            name=self.name,
            actions=tuple(self._actions),
            acknowledged=tuple(self._acknowledged),
            samples=tuple(self._samples),
            left=tuple(self._left),
            server=read_books(self.network.local("server") / "state"),
            sites={site: read_books(self.network.local(site) / "state") for site in self.sites},
            models=self._models,
            died=tuple(self.died),
            expected=self._expected,
            detection=self.detection,
            death=self.death,
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1][-300:] if lines else "it said nothing"


def _is(seen: Seen, kind: str) -> bool:
    return seen.kind == kind


def _claim(job: Any) -> JobClaim:
    return JobClaim(
        state=job.state,
        rounds=job.rounds_done,
        unconfirmed=job.unconfirmed,
        sites={site.site: site.state for site in job.sites},
    )


def read_books(state: Path) -> Books:
    """The log and the records in a state folder that nobody uses."""
    import asyncio

    if not (state / "store.db").exists():
        return Books(rows=(), records={})
    store = open_store(state, clock=SystemClock())
    try:
        rows = list(_all_rows(store))
        records = {kind: store.load(kind) for kind in _RECORDS}
    finally:
        asyncio.run(store.close())
    return Books(rows=tuple(rows), records=to_document({k: v for k, v in records.items() if v}))


def _all_rows(store: Any) -> Iterator[LogLine]:
    start = 1
    while rows := store.rows(start, 1000):
        for row in rows:
            yield LogLine(
                index=row.index,
                at=row.at.timestamp(),
                who=row.row.who,
                what=row.row.what,
                object=row.row.object,
                outcome=row.row.outcome,
                reason=row.row.reason,
                previous=row.previous,
                digest=row.digest,
                whole=verify_chain([row]) is None,
            )
        start = rows[-1].index + 1
