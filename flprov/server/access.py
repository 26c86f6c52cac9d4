# SPDX-License-Identifier: Apache-2.0
"""The object rules: which jobs, sites and people a caller may name. Which calls: see rpc/methods.py."""

from __future__ import annotations

from collections.abc import Mapping

from flprov.errors import Conflict, PermissionRefused
from flprov.pki import Identity, Kind, Role, parse_identity
from flprov.rpc.methods import ObjectRule
from flprov.server.records import JobRecord


def verify_may_touch(
    caller: Identity, job: JobRecord, rule: ObjectRule, orgs: Mapping[str, str]
) -> JobRecord:
    """The job, if the rule lets this caller name it. `orgs` maps each site to its organisation.

    Raises:
        PermissionRefused: it is somebody else's.
    """
    if rule is ObjectRule.OWN_JOB and not _own_job(caller, job, orgs):
        raise PermissionRefused(
            f"job {job.id} was submitted by {job.submitted_by}; a {_role(caller)} may only touch own jobs",
            hint="ask that person or a project_admin",
        )
    if rule is ObjectRule.OWN_ORG_JOB and not (_own_job(caller, job, orgs) or _own_org(caller, job)):
        raise PermissionRefused(
            f"job {job.id} belongs to another organisation; a {_role(caller)} may not read it",
            hint="ask the person who submitted it or a project_admin",
        )
    if rule is ObjectRule.OWN_SITE and caller.name not in job.targets:
        raise PermissionRefused(f"job {job.id} is not for site {caller.name}")
    return job


def verify_may_manage(caller: Identity, org: str) -> str:
    """The organisation, if ObjectRule.OWN_ORG lets this caller change its sites, people and invites.

    Raises:
        PermissionRefused: the caller is an org_admin of another one, or nobody who manages anything.
    """
    if caller.kind is Kind.PERSON and caller.role is Role.PROJECT_ADMIN:
        return org
    if caller.kind is Kind.PERSON and caller.role is Role.ORG_ADMIN and caller.org == org:
        return org
    raise PermissionRefused(
        f"{caller} may change what belongs to {caller.org or 'nobody'}, and this belongs to {org}",
        hint="ask a project_admin, or an org_admin of that organisation",
    )


def verify_may_take_name(caller: Identity, name: str, org: str, former: str) -> None:
    """Nothing, unless this name was the site of another organisation than `org` before.

    Whoever is its org_admin may read the results of all jobs in which a site of that name took part.

    Raises:
        Conflict: it was, and the caller is no project_admin.
    """
    if former in ("", org) or caller.role is Role.PROJECT_ADMIN:
        return
    raise Conflict(
        f"site {name} belonged to {former} before it went, and its jobs still do",
        hint="choose another name, or ask a project_admin, who may pass it on",
    )


def _own_job(caller: Identity, job: JobRecord, orgs: Mapping[str, str]) -> bool:
    if caller.role is Role.PROJECT_ADMIN or job.submitted_by == caller.uri:
        return True
    return caller.role is Role.ORG_ADMIN and any(orgs.get(site) == caller.org for site in job.targets)


def _own_org(caller: Identity, job: JobRecord) -> bool:
    return parse_identity(job.submitted_by).org == caller.org


def _role(caller: Identity) -> str:
    return caller.role.value if caller.role else caller.kind.value
