# SPDX-License-Identifier: Apache-2.0
"""The scheduler among its surroundings: what it sees of the jobs and the sites, and who is told its plan.

What to start is decided in `flprov.jobs.scheduler`, which is pure. Here a snapshot is taken whenever
something has changed that may let a job start, and the plan that follows from it is carried out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from flprov.jobs import (
    Capacity,
    GPURoom,
    JobState,
    JobView,
    Lease,
    Plan,
    SiteView,
    Snapshot,
    schedule,
)
from flprov.server.jobs import events as ev
from flprov.server.jobs.run import JobRun
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.wire.documents import Vitals

logger = logging.getLogger(__name__)


class Scheduler:
    """Wakes on events; several of them in one go cost one plan."""

    def __init__(
        self, *, runs: Callable[[], Sequence[JobRun]], sessions: Sessions, registry: Registry
    ) -> None:
        self._runs = runs  # every job, oldest first
        self._sessions = sessions
        self._registry = registry
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something that the scheduler looks at has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Start jobs whenever something changed that may let one start."""
        while True:
            self._wake.clear()
            try:
                self._apply(schedule(self.snapshot()))
            except Exception:  # the outermost loop of scheduling: the next event tries again
                logger.exception("nothing could be scheduled")
            await self._wake.wait()

    def _apply(self, plan: Plan) -> None:
        runs = {run.record.id: run for run in self._runs()}
        for start in plan.starts:
            runs[start.job_id].choose(start.sites)
        for join in plan.joins:
            runs[join.job_id].tell(ev.Joined(sites=join.sites))
        for job_id, reason in plan.reasons.items():
            runs[job_id].note_queued(reason, plan.site_reasons.get(job_id, {}))

    def snapshot(self) -> Snapshot:
        """Everything that a plan follows from, as it is now."""
        runs = self._runs()
        queued = [run for run in runs if run.record.state is JobState.QUEUED and not run.sites.granted]
        active = [run for run in runs if run.active and run.sites.lacking]
        targets = {site for run in (*queued, *active) for site in run.record.targets}
        names = targets & self._registry.sites.keys()  # a site may have left the project since
        return Snapshot(
            jobs=tuple(_job_view(run, run.record.targets) for run in queued),
            running=tuple(_job_view(run, run.sites.lacking) for run in active),
            sites={name: self._site_view(name, runs) for name in names},
            hold=self._registry.hold,
        )

    def _site_view(self, name: str, runs: Sequence[JobRun]) -> SiteView:
        session = self._sessions.get(name)
        vitals = session.vitals if session else None
        barred = None if session else self._registry.barred(name)
        return SiteView(
            name=name,
            connected=session is not None,
            closed=barred.reason if barred else self._registry.closed(name),
            since=session.since if session else self._registry.sites[name].last_seen,
            capacity=_capacity(vitals) if vitals else None,
            leases=tuple(
                Lease(job_id=run.record.id, name=run.record.name, resources=run.record.spec.resources)
                for run in runs
                if run.sites.holds(name)
            ),
            refused={run.record.id: run.record.refusals[name] for run in runs if name in run.record.refusals},
        )


def _job_view(run: JobRun, sites: tuple[str, ...]) -> JobView:
    spec = run.record.spec
    return JobView(
        id=run.record.id,
        name=run.record.name,
        sites=sites,
        quorum=run.record.quorum,
        required=spec.sites.required,
        resources=spec.resources,
    )


def _capacity(vitals: Vitals) -> Capacity:
    """What the scheduler may count on; the site checks its own policy and its own leases again."""
    return Capacity(
        cpus=vitals.cpu.count,
        memory=vitals.memory.total,
        gpus=tuple(GPURoom(uuid=g.uuid, memory=g.memory_total, leased_to=g.leased_to) for g in vitals.gpus),
        gpu_note=vitals.gpu_note,
    )
