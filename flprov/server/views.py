# SPDX-License-Identifier: Apache-2.0
"""What people see: documents made from records, sessions and runs. Nothing here changes anything."""

from __future__ import annotations

from datetime import datetime

from flprov.blobs import digest_of
from flprov.jobs import JobState
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.run import JobRun
from flprov.server.records import BlobRef, RoundRecord, SiteRecord
from flprov.server.registry import Barred
from flprov.server.sessions import Session
from flprov.wire.documents import (
    Cause,
    JobDocument,
    JobSiteDocument,
    ResultFile,
    RoundDocument,
    Rung,
    SiteDocument,
    Vitals,
    WhyDocument,
)

_LEAST_DISK = 1 << 30  # bytes; below this a site's environment is not ready


def site_document(
    site: SiteRecord, session: Session | None, jobs: Jobs, barred: Barred | None = None
) -> SiteDocument:
    """One site as it is now. Vitals of a site that is away are not shown: they would be stale."""
    vitals = session.vitals if session else None
    return SiteDocument(
        name=site.name,
        org=site.org,
        state=_site_state(site, session, barred),
        ladder=ladder(site, session, jobs, barred),
        gpus=vitals.gpus if vitals else (),
        gpu_note=vitals.gpu_note if vitals else "",
        cpu=vitals.cpu if vitals else None,
        memory=vitals.memory if vitals else None,
        disk=vitals.disk if vitals else None,
        jobs=tuple(run.record.id for run in jobs.active_at(site.name)),
        last_seen=session.last_seen if session else site.last_seen,
        cert_not_after=site.cert_not_after,
        version=session.hello.version if session else site.version,
        host=session.hello.host if session else site.host,
        datasets=vitals.datasets if vitals else (),
        confinement=vitals.confinement if vitals else "",
        notes=vitals.notes if vitals else (),
    )


def expired(site: SiteRecord, now: datetime) -> Barred | None:
    """That the newest certificate of a site has ended, if it has: it cannot come back by itself."""
    if site.cert_not_after is None or now <= site.cert_not_after:
        return None
    seen = f"; last seen {site.last_seen:%Y-%m-%d %H:%M:%S} UTC" if site.last_seen else ""
    return Barred(
        state="refused",
        since=site.cert_not_after,
        reason=f"its certificate expired on {site.cert_not_after:%Y-%m-%d %H:%M:%S} UTC{seen}. The way back:"
        f" flprov invite create {site.name}",
        rung="connected",
    )


def _site_state(site: SiteRecord, session: Session | None, barred: Barred | None) -> str:
    if session is not None:
        return "connected"
    if barred is not None:
        return barred.state
    return "disconnected" if site.first_connected else "never_connected"


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


def job_document(run: JobRun, rounds: list[RoundRecord] | None = None) -> JobDocument:
    """A job as it is now; with its rounds when they are given."""
    job = run.record
    total = run.rounds.total or (job.spec.workflow.rounds if job.spec.workflow.type else None)
    return JobDocument(
        id=job.id,
        name=job.name,
        app=job.app,
        state=job.state.value,
        reason=job.reason,
        submitted_at=job.submitted_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        submitted_by=job.submitted_by,
        sites=tuple(_job_site(run, site) for site in job.targets),
        rounds=tuple(round_document(record) for record in rounds or ()),
        rounds_done=job.round,
        rounds_total=total,
        token=job.token,
        unconfirmed=job.unconfirmed,
        results=tuple(file.name for file in result_files(run)),
    )


def _job_site(run: JobRun, site: str) -> JobSiteDocument:
    part = run.sites.parts[site]
    state, reason = part.state, part.reason
    if site in run.record.refusals:
        state, reason = "refused", run.record.refusals[site]
    elif run.record.state.terminal:
        state = "unconfirmed" if site in run.record.unconfirmed else "stopped"
    return JobSiteDocument(site=site, state=state, reason=reason, since=part.since, progress=part.progress)


def round_document(record: RoundRecord) -> RoundDocument:
    """One round that is over."""
    return RoundDocument(
        round=record.round,
        started_at=record.started_at,
        finished_at=record.finished_at,
        contributors=record.contributors,
        absent=record.absent,
        refused=record.refused,
        metrics=record.metrics,
    )


def result_files(run: JobRun) -> list[ResultFile]:
    """What the workflow left, by name; metrics, record and logs come on top (results.py)."""
    return [_result_file(name, ref) for name, ref in sorted(run.record.results.items())]


def _result_file(name: str, ref: BlobRef) -> ResultFile:
    digest = ref.digest or digest_of(bytes.fromhex(ref.inline))
    return ResultFile(name=name, size=ref.size, digest=digest)


def why_document(run: JobRun, now: datetime) -> WhyDocument:
    """The earliest cause of a job's trouble, or what it waits for, and the next thing to type."""
    job = run.record
    causes = tuple(sorted(job.causes, key=lambda cause: cause.at or now))
    return WhyDocument(
        job_id=job.id, state=job.state.value, answer=_answer(run, causes), causes=causes, hint=_hint(run)
    )


def _answer(run: JobRun, causes: tuple[Cause, ...]) -> str:
    job = run.record
    if job.state in (JobState.QUEUED, JobState.DEPLOYING):
        return f"{job.state.value}: {job.reason or 'it is about to start'}"
    if job.state in (JobState.ABORTING, JobState.ABORTED):
        rest = f"; not confirmed by {', '.join(job.unconfirmed)}" if job.unconfirmed else ""
        return f"{job.state.value}: {job.reason}{rest}"
    if causes:
        first = causes[0]
        return f"{job.state.value}: {first.party}: {first.message}"
    if job.state is JobState.RUNNING:
        return job.reason or f"running: round {job.round + 1}, {_progress(run)}"
    if job.state is JobState.DEGRADED:
        return "degraded: some rounds lacked a site; `job show` names who contributed to each"
    return f"{job.state.value}: {job.reason or 'nothing went wrong'}"


def _progress(run: JobRun) -> str:
    waiting = run.rounds.open.open if run.rounds.open else ()
    return f"waiting for {', '.join(waiting)}" if waiting else "the workflow is at work"


def _hint(run: JobRun) -> str:
    job = run.record
    if job.state is JobState.QUEUED:
        return "flprov site ls"
    if job.state is JobState.FAILED:
        return f"flprov job logs {job.id}"
    return f"flprov job show {job.id}"
