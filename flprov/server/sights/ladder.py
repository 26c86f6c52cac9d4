# SPDX-License-Identifier: Apache-2.0
"""The ladder of a site: how far it has come, each rung with since when and why."""

from __future__ import annotations

from flprov.server.jobs.jobs import Jobs
from flprov.server.records import SiteRecord
from flprov.server.registry import Barred
from flprov.server.sessions import Session
from flprov.wire.documents import Rung, Vitals

_LEAST_DISK = 1 << 30  # bytes; below this a site's environment is not ready


def ladder(
    site: SiteRecord, session: Session | None, jobs: Jobs, barred: Barred | None = None
) -> tuple[Rung, ...]:
    """The rungs in order, up to and including the first that fails."""
    if session is None and barred is not None:
        good = () if barred.rung == "enrolled" else (Rung(name="enrolled", ok=True, since=None),)
        return (*good, Rung(name=barred.rung, ok=False, since=barred.since, reason=barred.reason))
    rungs = [Rung(name="enrolled", ok=True, since=None)]
    if session is None:
        since = f"last seen {site.last_seen:%Y-%m-%d %H:%M:%S} UTC" if site.last_seen else "never connected"
        return (*rungs, Rung(name="connected", ok=False, since=site.last_seen, reason=since))
    rungs.append(Rung(name="connected", ok=True, since=session.since, reason=session.hello.host))
    problem = environment_problem(session.vitals)
    rungs.append(Rung(name="environment_ready", ok=not problem, since=session.since, reason=problem))
    if problem:
        return tuple(rungs)
    for run in jobs.active_at(site.name):
        part = run.sites.parts[site.name]
        deployed = part.state in ("ready", "training")
        about = f"job {run.record.id}: {part.reason or part.progress or part.state}"
        rungs.append(Rung(name="job_deployed", ok=deployed, since=part.since, reason=about))
        if part.state == "training":
            rungs.append(Rung(name="training", ok=True, since=part.since, reason=about))
        last = jobs.rounds(run.record.id)[-1:]
        if any(site.name == line.site for record in last for line in record.contributors):
            rungs.append(Rung(name="contributed", ok=True, since=last[0].finished_at, reason=about))
    return tuple(rungs)


def environment_problem(vitals: Vitals | None) -> str:
    """Why jobs cannot run at a connected site; empty when they can."""
    if vitals is None:
        return "no heartbeat yet"
    if vitals.disk.available < _LEAST_DISK:
        return f"{vitals.disk.available >> 20} MiB of disk left"
    if vitals.confinement == "none":
        return "job code cannot be confined there (neither Landlock nor bubblewrap)"
    return vitals.notes[0] if vitals.notes else ""
