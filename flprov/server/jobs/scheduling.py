# SPDX-License-Identifier: Apache-2.0
"""The scheduler among its surroundings: what it sees of the jobs and the sites, and who is told its plan.

What to start is decided in `flprov.jobs.scheduler`, which is pure. Here a snapshot is taken whenever
something has changed that may let a job start, and the plan that follows from it is carried out. What
happens in one go costs one plan, and a job that is submitted behind all others costs only itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from flprov.errors import IdentityRefused
from flprov.jobs import (
    JobState,
    JobView,
    Lease,
    Plan,
    Planning,
    Quotas,
    SiteView,
    Snapshot,
    Usage,
    capacity_of,
    site_disk,
)
from flprov.pki import parse_identity
from flprov.server.jobs import events as ev
from flprov.server.jobs.quotas import QuotaFile
from flprov.server.jobs.run import JobRun
from flprov.server.jobs.waits import Waits
from flprov.server.records import AppRecord
from flprov.server.registry import Registry
from flprov.server.sessions import Session, Sessions

logger = logging.getLogger(__name__)

_COSTLY = 0.005  # seconds for one plan; beyond it, the loop is left to others for a while before the next
_REST = 4.0  # so many times as long


class KnownJobs(Protocol):
    """The jobs of a server."""

    apps: dict[str, AppRecord]

    def going(self) -> list[JobRun]:
        """Every job that is not over everywhere, oldest first."""
        ...

    def get(self, job_id: str) -> JobRun | None:
        """The job with exactly this id."""
        ...


class Scheduler:
    """Wakes on events, and by nothing else."""

    def __init__(self, *, jobs: KnownJobs, sessions: Sessions, registry: Registry) -> None:
        self._jobs = jobs
        self._sessions = sessions
        self._registry = registry
        self._woken = asyncio.Event()
        self._fresh: list[JobRun] = []  # submitted, and not planned yet
        self._whole = True  # something else has happened as well
        self._known: dict[str, object] = {}  # of each job, all that a plan follows from
        self._planning: Planning | None = None
        self._views: dict[str, JobView] = {}  # of queued jobs
        self._waits = Waits()
        self.quotas: QuotaFile | None = None

    @property
    def apps(self) -> Mapping[str, AppRecord]:
        """The apps that jobs may name."""
        return self._jobs.apps

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator should know."""
        return self.quotas.notes if self.quotas else ()

    # ---- what happens --------------------------------------------------------------------

    def wake(self) -> None:
        """Something that the scheduler looks at has changed."""
        self._whole = True
        self._woken.set()

    def wake_for(self, run: JobRun) -> None:
        """A job was submitted, and nothing else has changed."""
        self._known[run.record.id] = _standing(run)
        self._fresh.append(run)
        self._woken.set()

    def changed(self, run: JobRun) -> None:
        """Something about a job has changed; its reasons and its progress are nothing to us."""
        job_id, standing = run.record.id, _standing(run)
        if self._known.get(job_id) != standing:
            self._known[job_id] = standing
            self.wake()

    def met(self, site: str) -> None:
        """A site has come, or gone."""
        self._waits.forget(site)
        self.wake()

    def heard(self, session: Session) -> None:
        """A site has told how it is."""
        if session.vitals is not None and self._waits.heard(session.name, session.vitals):
            self.wake()

    def defer(self, site: str, job_id: str, reason: str) -> None:
        """A site has no room for a job after all: it is asked again when something changes there."""
        session = self._sessions.get(site)
        self._waits.defer(site, job_id, reason, session.vitals if session else None)

    async def run(self) -> None:
        """Start jobs whenever something changed that may let one start."""
        while True:
            self._woken.clear()
            await asyncio.sleep(0)  # whatever else happens in this go is in the same plan
            began = time.perf_counter()
            try:
                self._apply(self._plan())
            except Exception:  # the outermost loop of scheduling: the next event tries again
                self._whole = True
                logger.exception("nothing could be scheduled")
            took = time.perf_counter() - began
            await self._woken.wait()
            if took > _COSTLY:  # of a thousand sites that come back each one wakes us
                await _rest(_REST * took)

    # ---- the plan ------------------------------------------------------------------------

    def _plan(self) -> Plan:
        fresh, self._fresh = self._fresh, []
        if self._planning is not None and not self._whole:
            views = [self._view(run) for run in fresh if _queued(run)]
            if all(self._planning.comes_last(view) for view in views):
                return self._planning.add(views)
        self._planning = Planning(self.snapshot())
        self._whole = False
        return self._planning.plan

    def _apply(self, plan: Plan) -> None:
        for start in plan.starts:
            if (run := self._jobs.get(start.job_id)) is not None:
                run.choose(start.sites)
        for join in plan.joins:
            if (run := self._jobs.get(join.job_id)) is not None:
                run.tell(ev.Joined(sites=join.sites))
        for job_id, texts in plan.site_reasons.items():
            if (run := self._jobs.get(job_id)) is not None:
                reason = plan.reasons.get(job_id)
                run.sites.note_waiting(texts) if reason is None else run.note_queued(reason, texts)

    def snapshot(self, also: Sequence[str] = ()) -> Snapshot:
        """Everything that a plan follows from, as it is now: the sites that jobs want, and `also`."""
        runs = [run for run in self._jobs.going() if not run.record.state.terminal]
        queued = [run for run in runs if _queued(run)]
        lacking = [run for run in runs if run.active and run.sites.lacking]
        targets = {site for run in (*queued, *lacking) for site in run.record.targets} | set(also)
        names = targets & self._registry.sites.keys()  # a site may have left the project since
        known = {run.record.id for run in runs}
        self._views = {job_id: view for job_id, view in self._views.items() if job_id in known}
        self._known = {job_id: seen for job_id, seen in self._known.items() if job_id in known}
        self._waits.keep(known)
        leases = self._leases(runs)
        return Snapshot(
            jobs=tuple(self._view(run) for run in queued),
            running=tuple(self._lacking_view(run) for run in lacking),
            sites={name: self._site_view(name, runs, leases.get(name, ())) for name in names},
            hold=self._registry.hold,
            quotas=self.quotas.read() if self.quotas else Quotas(),
            usage=_usage(runs, leases),
        )

    def _view(self, run: JobRun) -> JobView:
        found = self._views.get(run.record.id)
        if found is None:
            found = self._views[run.record.id] = self._make_view(run)
        return found

    def _make_view(self, run: JobRun) -> JobView:
        record, spec = run.record, run.record.spec
        app = self._jobs.apps.get(record.app)
        disk = site_disk(spec.resources, app.size, app.model_size(spec.model)) if app else 0
        return JobView(
            id=record.id,
            name=record.name,
            sites=record.targets,
            quorum=record.quorum,
            required=spec.sites.required,
            resources=replace(spec.resources, disk=disk),
            priority=spec.priority,
            org=org_of(record.submitted_by),
        )

    def _lacking_view(self, run: JobRun) -> JobView:
        granted, required = run.sites.granted, run.record.spec.sites.required
        few = len(granted) < run.record.quorum or not granted.issuperset(required)
        short = few and run.record.state is JobState.DEPLOYING
        return replace(self._view(run), sites=run.sites.lacking, short=short)

    def _leases(self, runs: Sequence[JobRun]) -> dict[str, list[Lease]]:
        """What the jobs hold at each site, or are about to."""
        found: dict[str, list[Lease]] = {}
        for run in runs:
            held = [
                site for site in run.record.targets if site in run.sites.granted and run.sites.holds(site)
            ]
            if not held:
                continue
            view = self._view(run)
            lease = Lease(job_id=view.id, name=view.name, resources=view.resources)
            for site in held:
                found.setdefault(site, []).append(lease)
        return found

    def _site_view(self, name: str, runs: Sequence[JobRun], leases: Sequence[Lease]) -> SiteView:
        session = self._sessions.get(name)
        vitals = session.vitals if session else None
        return SiteView(
            name=name,
            connected=session is not None,
            closed=self._closed(name, connected=session is not None),
            since=session.since if session else self._registry.sites[name].last_seen,
            capacity=capacity_of(vitals) if vitals else None,
            leases=tuple(leases),
            refused={run.record.id: run.record.refusals[name] for run in runs if name in run.record.refusals},
            waits=self._waits.at(name),
        )

    def _closed(self, name: str, *, connected: bool) -> str:
        """Why the site gets no new job, by an admin's word."""
        barred = None if connected else self._registry.barred(name)
        if barred is not None:
            return barred.reason
        return self._registry.closed(name)


async def _rest(seconds: float) -> None:
    """Leave the loop to others. By the loop's own time: it is its load that counts, not the hour."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    timer = loop.call_later(seconds, over.set_result, None)
    try:
        await over
    finally:
        timer.cancel()


def _queued(run: JobRun) -> bool:
    return run.record.state is JobState.QUEUED and not run.sites.granted


def _standing(run: JobRun) -> object:
    """What a plan follows from: where the job is, and whether it may hold or lack other sites than before.

    It is asked at every step of every site, so nothing is counted: records are frozen, and the same refusals
    are the same object.
    """
    record = run.record
    return None if record.state.terminal else (record.state, run.sites.turn, record.refusals)


def org_of(uri: str) -> str:
    """The organisation of a person; empty for what is no identity."""
    try:
        return parse_identity(uri).org
    except IdentityRefused:
        return ""


def _usage(runs: Sequence[JobRun], leases: Mapping[str, Sequence[Lease]]) -> dict[str, Usage]:
    """What each organisation has running."""
    gpus: dict[str, int] = {}
    for held in leases.values():
        for lease in held:
            gpus[lease.job_id] = gpus.get(lease.job_id, 0) + lease.resources.gpus
    found: dict[str, Usage] = {}
    for run in runs:
        if not _queued(run):
            org = org_of(run.record.submitted_by)
            used = found.get(org, Usage())
            found[org] = Usage(jobs=used.jobs + 1, gpus=used.gpus + gpus.get(run.record.id, 0))
    return found
