# SPDX-License-Identifier: Apache-2.0
"""Whether a signed submission may become a job. Every site checks the same signature again itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from flprov.errors import Conflict, Misuse, NotFound, PermissionRefused
from flprov.jobs import Submission, decode_submission, verify_spec
from flprov.kits import Kit
from flprov.pki import Anchors, Identity, Kind, Role, verify_signed
from flprov.server.records import AppRecord, JobRecord
from flprov.wire import pb


def read_submission(
    request: pb.SubmitRequest, caller: Identity, *, kit: Kit, people: Anchors, now: datetime
) -> Submission:
    """What `caller` signed, for this project and for now.

    Raises:
        IdentityRefused: the signature or the certificate behind it.
        PermissionRefused: somebody else's submission, or one for another project.
        Misuse: it came too late.
    """
    signer = verify_signed(
        request.submission, request.signature, request.chain, people, now=now, kinds=(Kind.PERSON,)
    )
    submission = decode_submission(request.submission)
    if signer != caller or submission.submitted_by != caller.uri:
        raise PermissionRefused(f"{caller.name} sent a submission that {submission.submitted_by} signed")
    if submission.project_id != kit.project_id:
        raise PermissionRefused("the submission is for another project", hint="flprov use KIT")
    submission.verify_fresh(now)
    return submission


def verify_runs(
    submission: Submission, caller: Identity, *, apps: Mapping[str, AppRecord], enrolled: Collection[str]
) -> None:
    """Whether a new job can be made of it.

    Raises:
        PermissionRefused: it asks for what is not the caller's to give.
        Misuse: it names no site, or asks for more sites than it names.
        NotFound: the app was never uploaded, or a site is not enrolled.
    """
    if submission.app not in apps:
        raise NotFound(f"no app {submission.app[:12]} on the server", hint="flprov app upload APP")
    verify_spec(submission.spec, apps[submission.app].files)
    if submission.spec.priority > 0 and caller.role is not Role.PROJECT_ADMIN:
        raise PermissionRefused(
            f"the job asks for priority {submission.spec.priority}; above 0 is for a project_admin to give",
            hint="leave priority at 0, or ask a project_admin to submit it",
        )
    _verify_sites(submission, enrolled)


def _verify_sites(submission: Submission, enrolled: Collection[str]) -> None:
    if not submission.sites:
        raise Misuse("the submission names no site", hint="flprov job submit APP --sites a,b")
    unknown = sorted(set(submission.sites) - set(enrolled))
    if unknown:
        raise NotFound(f"no site {unknown[0]!r} in this project", hint="flprov site ls")
    membership = submission.spec.sites
    if membership.min is not None and membership.min > len(submission.sites):
        raise Misuse(
            f"the job needs {membership.min} sites and is for {len(submission.sites)}",
            hint="name more with --sites, or lower --min-sites",
        )
    lacking = sorted(set(membership.required) - set(submission.sites))
    if lacking:
        raise Misuse(f"the job requires {lacking[0]}, which is not among its sites")


def verify_same(job: JobRecord, submission: Submission) -> JobRecord:
    """The job that a token made before, if this submission asks for the same.

    Raises:
        Conflict: the token was used for something else.
    """
    same = (job.app, job.spec, job.targets, job.origin) == (
        submission.app,
        submission.spec,
        tuple(sorted(submission.sites)),
        submission.origin,
    )
    if not same:
        raise Conflict(
            f"token {submission.token!r} has made job {job.id}, which is not the same as this one",
            hint="use another --token, or none",
        )
    return job
