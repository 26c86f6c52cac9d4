# SPDX-License-Identifier: Apache-2.0
"""A job as people see it now: its sites, its rounds, its results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from flprov.blobs import digest_of
from flprov.server.jobs.rounds import Rounds
from flprov.server.jobs.sites import JobSites
from flprov.server.records import BlobRef, JobRecord, RoundRecord
from flprov.wire.documents import (
    Contribution,
    JobDocument,
    JobOrigin,
    JobSiteDocument,
    ResultFile,
    RoundDocument,
)


class Shown(Protocol):
    """What is shown of a job: `JobRun`, and what stands for it in a simulation."""

    sites: JobSites
    rounds: Rounds

    @property
    def record(self) -> JobRecord:
        """The job as it is written down."""
        ...

    @property
    def doing(self) -> str:
        """What the workflow says that it does."""
        ...


def job_document(
    run: Shown, rounds: list[RoundRecord] | None = None, contributions: tuple[Contribution, ...] = ()
) -> JobDocument:
    """A job as it is now; with its rounds, and who gave what, when they are given."""
    job = run.record
    origin = JobOrigin(job_id=job.origin.job_id, round=job.origin.round) if job.origin else None
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
        sites=tuple(job_sites(run)),
        rounds=tuple(round_document(record) for record in rounds or ()),
        rounds_done=job.round,
        rounds_total=total,
        token=job.token,
        unconfirmed=job.unconfirmed,
        results=tuple(file.name for file in result_files(run)),
        origin=origin,
        contributions=contributions,
        doing=run.doing,
    )


def job_sites(run: Shown) -> Iterator[JobSiteDocument]:
    """What a job is at each of its sites; once it is over, what is proven about it there."""
    sent, answered = {*run.record.granted, *run.record.members}, _answered(run)
    for site in run.record.targets:
        yield _job_site(run, site, sent=site in sent, answered=site in answered)


def _job_site(run: Shown, site: str, *, sent: bool, answered: bool) -> JobSiteDocument:
    part, proof = run.sites.parts[site], run.record.proofs.get(site)
    state, reason, since = part.state, part.reason, part.since
    if proof is not None:
        state, since = "stopped", proof.at
    elif site in run.record.refusals:
        state, reason = "refused", run.record.refusals[site]
    elif run.record.state.terminal:
        state = "unconfirmed" if site in run.record.unconfirmed else "stopped"
        if state == "stopped" and not sent:
            reason = "it was never sent there"
    return JobSiteDocument(
        site=site,
        state=state,
        reason=reason,
        since=since,
        progress=part.progress,
        step=part.step,
        doing=part.doing,
        bytes_done=part.bytes_done,
        bytes_total=part.bytes_total,
        at=part.progress_at,
        freed=proof.freed if proof else (),
        late=run.record.late.get(site, 0),
        answered=answered,
    )


def _answered(run: Shown) -> set[str]:
    """The sites whose answer to the newest task of the open round that went to them is on our disk."""
    newest = {site: gather for gather in run.rounds.gathers for site in gather.asked.sites}
    return {site for site, gather in newest.items() if site in gather.taken}


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
        checkpoint=record.state is not None,
        spared=record.spared,
    )


def result_files(run: Shown) -> list[ResultFile]:
    """What the workflow left, by name; metrics, record and logs come on top (results.py)."""
    return [_result_file(name, ref) for name, ref in sorted(run.record.results.items())]


def _result_file(name: str, ref: BlobRef) -> ResultFile:
    digest = ref.digest or digest_of(bytes.fromhex(ref.inline))
    return ResultFile(name=name, size=ref.size, digest=digest)
