# SPDX-License-Identifier: Apache-2.0
"""Why a job is where it is: the earliest cause over all parties, what was seen of each, what to type next.

Causes are in the order in which the server heard of them: no site's clock has a say in that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flprov.errors import error_class
from flprov.jobs import JobState
from flprov.server.jobs.contributions import contributions
from flprov.server.jobs.run import JobRun
from flprov.server.records import JobRecord
from flprov.server.sights.jobs import job_sites
from flprov.server.sights.scene import Scene
from flprov.server.sights.sitewhy import last_seen
from flprov.wire.documents import Cause, Contribution, JobSiteDocument, Seen, WhyDocument

_WAITING = (JobState.QUEUED, JobState.DEPLOYING)
_STUCK = frozenset({"stalled"})
_NOT_READY = frozenset({"waiting", "absent", "stalled", "deploying"})


def why_document(scene: Scene, run: JobRun) -> WhyDocument:
    """What `job why` prints."""
    job = run.record
    causes = tuple(sorted(_causes(job), key=lambda cause: cause.at or scene.clock.now()))
    return WhyDocument(
        job_id=job.id,
        state=job.state.value,
        answer=_answer(run, causes),
        causes=causes,
        hint=_hint(scene, run, causes),
        seen=tuple(_seen(scene, run)),
    )


def _causes(job: JobRecord) -> Iterator[Cause]:
    for cause in job.causes:
        yield cause if cause.nature else replace(cause, nature=error_class(cause.code).nature.value)


# ---- one sentence ----------------------------------------------------------------------------


def _answer(run: JobRun, causes: tuple[Cause, ...]) -> str:
    job, state = run.record, run.record.state.value
    if job.state in _WAITING:
        return f"{state}: {job.reason or 'it is about to start'}"
    if job.state in (JobState.ABORTING, JobState.ABORTED):
        rest = f"; not confirmed by {', '.join(job.unconfirmed)}" if job.unconfirmed else ""
        by = f" by {job.aborted_by.rpartition('/')[2]}" if job.aborted_by else ""
        return f"{state}{by}{rest}" if job.reason == f"aborted{by}" else f"{state}{by}: {job.reason}{rest}"
    if job.state is JobState.DEGRADED and not (job.reason or causes):
        return "degraded: some rounds lacked a site; `job show` names who contributed to each"
    if job.state is JobState.RUNNING:
        return f"running: round {job.round + 1}, {job.reason or _progress(run)}"
    if causes and not (job.state is JobState.DEGRADED and job.reason):
        first = causes[0]
        although = "it came to its end, although " if job.state is JobState.COMPLETED else ""
        return f"{state}: {although}{first.party}: {first.message}"
    return f"{state}: {job.reason or 'nothing went wrong'}"


def _progress(run: JobRun) -> str:
    waiting = sorted({site for gather in run.rounds.gathers.open for site in gather.open})
    at_work = f"the workflow says: {run.doing}" if run.doing else "the workflow is at work"
    return f"waiting for {', '.join(waiting)}" if waiting else at_work


# ---- the next thing to type ------------------------------------------------------------------


def _hint(scene: Scene, run: JobRun, causes: tuple[Cause, ...]) -> str:
    job = run.record
    match job.state:
        case JobState.RUNNING:
            site = _in_the_way(scene, run)
            return f"flprov site why {site}" if site else f"flprov job logs {job.id} --follow"
        case JobState.QUEUED if scene.registry.drained is not None:
            return "flprov server enable"
        case JobState.QUEUED | JobState.DEPLOYING:
            site = _in_the_way(scene, run)
            return f"flprov site why {site}" if site else f"flprov job show {job.id}"
        case JobState.ABORTING | JobState.ABORTED if job.unconfirmed:
            return f"flprov site why {job.unconfirmed[0]}"
        case JobState.DEGRADED:
            lacking = next((line.site for line in _contributions(scene, job) if line.missed), "")
            if lacking:
                return f"flprov site why {lacking}"
            return _of_cause(job, causes) or f"flprov job show {job.id}"
        case JobState.FAILED | JobState.FINISHING:
            return _of_cause(job, causes) or f"flprov job logs {job.id}"
        case _:
            return f"flprov job show {job.id}"


def _contributions(scene: Scene, job: JobRecord) -> tuple[Contribution, ...]:
    return contributions(job, scene.jobs.rounds(job.id))


def _of_cause(job: JobRecord, causes: tuple[Cause, ...]) -> str:
    """What helps against the first cause: its own hint, else where to look."""
    if not causes:
        return ""
    first = causes[0]
    is_site = first.party in job.targets
    if first.hint:
        return f"at {first.party}: {first.hint}" if is_site else first.hint
    if first.code == "site-unavailable" and is_site:
        return f"flprov site why {first.party}"
    party = first.party if is_site else "server"
    return f"flprov job logs {job.id} --site {party}"


def _in_the_way(scene: Scene, run: JobRun) -> str:
    """The site for which the job waits and that does not just work; of several, one that is not connected."""
    stuck = _STUCK if run.record.state is JobState.RUNNING else _NOT_READY
    waiting = [
        site for site, part in run.sites.parts.items() if part.state in stuck or site in run.sites.away
    ]
    away = [site for site in waiting if site not in scene.sessions]
    reasons = [site for site in waiting if run.sites.parts[site].reason]
    return next(iter([*away, *reasons, *waiting]), "")


# ---- what was seen ---------------------------------------------------------------------------


def _seen(scene: Scene, run: JobRun) -> Iterator[Seen]:
    """Of each site of a job that is not over; of one that is, nothing: it would be about something else."""
    job = run.record
    if job.state.terminal and not job.unconfirmed:
        return
    rounds = scene.jobs.rounds(job.id)
    if rounds and rounds[-1].finished_at:
        text = f"round {rounds[-1].round + 1} was saved"
        yield Seen(party="workflow", what="round", at=rounds[-1].finished_at, text=text)
    for shown in job_sites(run):
        yield from _seen_of(scene, run, shown)


def _seen_of(scene: Scene, run: JobRun, shown: JobSiteDocument) -> Iterator[Seen]:
    site = shown.site
    part, record = run.sites.parts[site], scene.registry.sites.get(site)
    if part.progress:
        yield Seen(party=site, what="progress", at=part.progress_at, text=part.progress)
    elif shown.reason or shown.state != "waiting":
        text = f"{shown.state}: {shown.reason}" if shown.reason else shown.state
        yield Seen(party=site, what="state", at=shown.since, text=text)
    if record is None:
        yield Seen(party=site, what="link", at=None, text="it belongs to the project no more")
        return
    yield from last_seen(scene.at(record, (), ()))
