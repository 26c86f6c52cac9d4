# SPDX-License-Identifier: Apache-2.0
"""Why a job is where it is: the earliest cause, and what to type next."""

from __future__ import annotations

from datetime import datetime

from flprov.jobs import JobState
from flprov.server.jobs.run import JobRun
from flprov.wire.documents import Cause, WhyDocument


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
