# SPDX-License-Identifier: Apache-2.0
"""Jobs of one person: submissions that are signed here, clones of earlier ones, long lists, removal."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from flprov._base import Clock, canonical_json, parse_json, to_iso
from flprov.admin.link import Link
from flprov.errors import ProtocolError
from flprov.kits import Kit
from flprov.pki import Kind, sign, verify_signed
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.jobs import JobSpec, Origin, Submission
    from flprov.pki import Anchors

_COMMAND_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out
_SUBMISSION_LIFE = timedelta(days=7)  # so long a site may be away before its part is refused
_PLAN_LIFE = timedelta(minutes=5)  # clocks may be so far apart; nobody is to start a job with it later
_MOST_RECORD = 64 << 20  # bytes of a record.json


def submit_job(
    link: Link,
    kit: Kit,
    clock: Clock,
    *,
    app: str,
    spec: JobSpec,
    sites: Sequence[str],
    token: str = "",
    origin: Origin | None = None,
) -> doc.SubmitDocument:
    """Sign a submission and hand it in."""
    from flprov.jobs import Submission  # late: many commands need none of this

    now = clock.now()
    wish = Submission(
        project_id=kit.project_id,
        app=app,
        spec=spec,
        sites=tuple(sorted(sites)),
        token=token or secrets.token_hex(16),
        submitted_by=kit.identity.uri,
        made_at=now,
        not_after=now + _SUBMISSION_LIFE,
        origin=origin,
    )
    return link.document(doc.SubmitDocument, m.SUBMIT_JOB, _sign(kit, wish))


def plan_job(
    link: Link, kit: Kit, clock: Clock, *, app: str, spec: JobSpec, sites: Sequence[str]
) -> doc.JobPlanDocument:
    """Ask what would come of a submission. It is signed for the sites to judge, and soon worth nothing."""
    from flprov.jobs import Submission  # late: many commands need none of this

    now = clock.now()
    wish = Submission(
        project_id=kit.project_id,
        app=app,
        spec=spec,
        sites=tuple(sorted(sites)),
        token=secrets.token_hex(16),
        submitted_by=kit.identity.uri,
        made_at=now,
        not_after=now + _PLAN_LIFE,
        plan=True,
    )
    return link.document(doc.JobPlanDocument, m.PLAN_JOB, _sign(kit, wish))


def _sign(kit: Kit, wish: Submission) -> pb.SubmitRequest:
    data = wish.encode()
    return pb.SubmitRequest(submission=data, signature=sign(kit.private_pem, data), chain=kit.chain_pem)


def fetch_submission(link: Link, job_id: str, people: Anchors) -> Submission:
    """What somebody signed for an earlier job: nobody signs it again on the server's word alone.

    Raises:
        IdentityRefused: no person of this project signed it.
        PermissionRefused: it belongs to another organisation.
        ProtocolError: the server sent something else.
    """
    from flprov.jobs import decode_submission  # late: many commands need none of this

    data = bytearray()
    for chunk in link.download(m.DOWNLOAD_RESULT, pb.DownloadRequest(job_id=job_id, name="record.json")):
        data += chunk
        if len(data) > _MOST_RECORD:
            raise ProtocolError(f"the record of job {job_id} is larger than {_MOST_RECORD >> 20} MiB")
    try:
        record = parse_json(bytes(data))
        signed = canonical_json(record["submission"])
        signature = bytes.fromhex(record["signature"])
        chain = str(record["certificates"]).encode()
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"the record of job {job_id} cannot be read: {error}") from error
    submission = decode_submission(signed)
    verify_signed(signed, signature, chain, people, now=submission.made_at, kinds=(Kind.PERSON,))
    return submission


def list_jobs(link: Link, name: str, state: str, limit: int | None) -> doc.JobListDocument:
    """Jobs, newest first, as many pages as it takes."""
    found: tuple[doc.JobDocument, ...] = ()
    while True:
        rest = 0 if limit is None else limit - len(found)
        before = found[-1].id if found else ""
        query = pb.Query(id=name, state=state, limit=rest, before=before)
        page = link.document(doc.JobListDocument, m.LIST_JOBS, query)
        found += page.jobs
        if limit is not None and len(found) >= limit:
            return doc.JobListDocument(jobs=found[:limit], more=page.more or len(found) > limit)
        if not page.more:
            return doc.JobListDocument(jobs=found)
        if not page.jobs:
            raise ProtocolError("the server ended a list of jobs in the middle")


def delete_job(link: Link, clock: Clock, job_id: str, *, reason: str = "") -> doc.JobDeletedDocument:
    """Remove a job that has ended, with everything of it."""
    request = pb.JobChange(
        job_id=job_id,
        reason=reason,
        key=secrets.token_hex(8),
        not_after=to_iso(clock.now() + _COMMAND_LIFE),
    )
    return link.document(doc.JobDeletedDocument, m.DELETE_JOB, request)
