# SPDX-License-Identifier: Apache-2.0
"""Whether this site runs a job. The site has the last word, and takes nobody's word for who asked.

The person's signature is checked here, against the people anchors that this site holds, and the list of
those who were revoked: a server that was broken into cannot run code at a site, nor hide who has left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from flprov.agent.config import AgentConfig
from flprov.agent.presharing import derive_job_secret
from flprov.agent.sitefilters import verify_filterable
from flprov.errors import (
    ConfinementRefused,
    FlprovError,
    IdentityRefused,
    NotFound,
    PermissionRefused,
    ProtocolError,
)
from flprov.jobs import ENCRYPTED, Resources, Submission, decode_submission
from flprov.messages import StatisticsRules
from flprov.pki import Anchors, Identity, Kind, verify_signed
from flprov.policy import (
    FilterRules,
    LogRules,
    SitePolicy,
    SiteSettings,
    judge,
    load_policy,
    load_site_settings,
)
from flprov.rpc.methods import SUBMIT_JOB
from flprov.wire import pb
from flprov.workers import confinement_method

_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A job that this site runs, and with what."""

    submission: Submission
    datasets: Mapping[str, Path]
    python: Path
    unconfined: bool
    tracebacks: bool
    logs: LogRules = field(default_factory=LogRules)
    filters: FilterRules = field(default_factory=FilterRules)
    statistics: StatisticsRules = field(default_factory=StatisticsRules)
    refused_tasks: frozenset[str] = frozenset()
    he_secret: bytes = field(default=b"", repr=False)  # for this job; see flprov.agent.presharing


def admit(
    deploy: pb.Deploy,
    *,
    config: AgentConfig,
    now: datetime,
    jobs_here: int,
    token_job: str | None,
    known: bool,
    people: Anchors,
    revoked_people: Container[int],
) -> Admitted:
    """The job, if everything about it is as it should be.

    Args:
        people: the CAs whose people may sign.
        revoked_people: serial numbers of those people's certificates that count no more.
        token_job: the job that the submission's token made here before, if any.
        known: this site accepted the job before; its not-after has been met then.

    Raises:
        IdentityRefused, PermissionRefused: who signed, and what.
        PolicyRefused: what policy.yml says, or its filters cannot be applied to what the job sends.
        NotFound: a dataset that site.yml does not name.
        ConfinementRefused: job code could not be confined here.
    """
    signer, submission = _verify_signature(deploy, people, revoked_people, now)
    if submission.plan:
        raise PermissionRefused(f"{signer.uri} signed this to ask what would come of it, and not to run it")
    _verify_meant_for_here(deploy, submission, config, now, token_job, known=known)
    policy = load_policy(config.policy)
    settings = load_site_settings(config.settings)
    _judge(policy, signer, submission.spec.resources, jobs_here)
    _verify_confinement(policy)
    verify_filterable(policy.filters, submission.spec)
    return Admitted(
        submission=submission,
        datasets=_datasets(submission.spec.data, settings.datasets, config),
        python=settings.python or config.python,
        unconfined=policy.unconfined,
        tracebacks=policy.tracebacks,
        logs=policy.logs,
        filters=policy.filters,
        statistics=policy.statistics,
        refused_tasks=policy.refused_tasks,
        he_secret=_he_secret(submission, settings, deploy.job_id),
    )


def _he_secret(submission: Submission, settings: SiteSettings, job_id: str) -> bytes:
    """The job's part of the site's secret, where its workflow has a use for it."""
    if submission.spec.workflow.type != ENCRYPTED:
        return b""
    return derive_job_secret(settings.he_secret, job_id)


def find_objections(
    deploy: pb.Deploy,
    *,
    config: AgentConfig,
    now: datetime,
    jobs_here: int,
    people: Anchors,
    revoked_people: Container[int],
) -> tuple[Submission | None, list[FlprovError]]:
    """Everything that `admit` would refuse a new job for; without a signature that counts, only that."""
    try:
        signer, submission = _verify_signature(deploy, people, revoked_people, now)
        _verify_meant_for_here(deploy, submission, config, now, None, known=False)
        policy, settings = load_policy(config.policy), load_site_settings(config.settings)
    except FlprovError as error:
        return None, [error]
    resources, wanted = submission.spec.resources, submission.spec.data
    checks: list[Callable[[], object]] = [
        partial(_judge, policy, signer, resources, jobs_here),
        partial(_verify_confinement, policy),
        partial(verify_filterable, policy.filters, submission.spec),
        partial(_he_secret, submission, settings, deploy.job_id),
        *(partial(_datasets, (name,), settings.datasets, config) for name in wanted),
    ]
    found = []
    for check in checks:
        try:
            check()
        except FlprovError as error:
            found.append(error)
    return submission, found


def names_folder(job_id: str) -> bool:
    """Whether this id, which the server chose, may be the name of a folder here."""
    return _FOLDER.fullmatch(job_id) is not None


def _verify_signature(
    deploy: pb.Deploy, people: Anchors, revoked: Container[int], now: datetime
) -> tuple[Identity, Submission]:
    signer = verify_signed(
        deploy.submission,
        deploy.signature,
        deploy.chain,
        people,
        now=now,
        kinds=(Kind.PERSON,),
        revoked=revoked,
    )
    submission = decode_submission(deploy.submission)
    if submission.submitted_by != signer.uri:
        raise IdentityRefused(f"the submission names {submission.submitted_by}, but {signer.uri} signed it")
    if not SUBMIT_JOB.allows(signer):
        raise PermissionRefused(f"{signer.uri} may not submit jobs")
    return signer, submission


def _verify_meant_for_here(
    deploy: pb.Deploy,
    submission: Submission,
    config: AgentConfig,
    now: datetime,
    token_job: str | None,
    *,
    known: bool,
) -> None:
    if submission.project_id != config.kit.project_id:
        raise PermissionRefused("the submission is for another project")
    if config.kit.name not in submission.sites:
        raise PermissionRefused(f"the submission is not for {config.kit.name}")
    if token_job is not None and token_job != deploy.job_id:
        raise PermissionRefused(f"this submission was used before, for job {token_job}: it is a replay")
    if not known:
        submission.verify_fresh(now)
    if not names_folder(deploy.job_id):
        raise ProtocolError("a job id that cannot be a folder's name")


def _judge(policy: SitePolicy, signer: Identity, resources: Resources, jobs_here: int) -> None:
    judge(
        policy,
        identity=signer,
        gpus=resources.gpus,
        cpus=resources.cpus,
        memory=resources.memory,
        jobs_here=jobs_here,
    )


def _verify_confinement(policy: SitePolicy) -> None:
    if confinement_method() == "none" and not policy.unconfined:
        raise ConfinementRefused(
            "job code cannot be confined on this machine: neither Landlock nor bubblewrap works",
            hint="install bubblewrap, or set `unconfined: true` in the site's policy.yml",
        )


def _datasets(wanted: tuple[str, ...], named: Mapping[str, Path], config: AgentConfig) -> dict[str, Path]:
    missing = [name for name in wanted if name not in named]
    if missing:
        raise NotFound(
            f"the job needs dataset {missing[0]!r}, which this site does not name",
            hint=f"the site's IT adds it under `datasets` in {config.settings.name}:"
            f" datasets: {{{missing[0]}: /path/to/{missing[0]}}}",
        )
    for name in wanted:
        path = named[name].resolve()
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where we may not look (Python < 3.14)
            raise NotFound(
                f"dataset {name!r} is named in {config.settings.name}, but its path does not exist"
            )
        if any(path.is_relative_to(secret.resolve()) for secret in (config.kit.folder, config.state)):
            raise ConfinementRefused(
                f"dataset {name!r} lies in the kit or the state of this site's own agent"
            )
    return {name: named[name] for name in wanted}
