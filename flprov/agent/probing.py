# SPDX-License-Identifier: Apache-2.0
"""Would this site run that job? Everything that stands against it is said; nothing is leased or kept."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from dataclasses import replace
from datetime import datetime

from flprov._base import canonical_json
from flprov.agent.admission import find_objections
from flprov.agent.config import AgentConfig
from flprov.agent.leases import Leases
from flprov.agent.sitefilters import describe_rules
from flprov.errors import FlprovError, NoRoom, NotFound
from flprov.jobs import JobSpec, check_needs, job_needs
from flprov.pki import Anchors
from flprov.policy import load_policy, load_site_settings
from flprov.wire import pb

_MOST = 50  # objections


async def examine(
    probe: pb.Probe,
    *,
    config: AgentConfig,
    now: datetime,
    jobs_here: int,
    people: Anchors,
    revoked_people: Container[int],
    leases: Leases,
) -> pb.Probed:
    """What the site's policy, its data, its interpreter and its machine say to this submission."""
    deploy = pb.Deploy(
        job_id="probe", submission=probe.submission, signature=probe.signature, chain=probe.chain
    )
    submission, found = find_objections(
        deploy,
        config=config,
        now=now,
        jobs_here=jobs_here,
        people=people,
        revoked_people=revoked_people,
    )
    probed = pb.Probed(probe_id=probe.probe_id)
    if submission is not None:  # whoever may not ask is told nothing of this machine
        found += await _find_missing(submission.spec, config)
        room = await leases.offer(
            submission.spec.resources, app_size=probe.app_size, model_size=probe.model_size
        )
        if room.missing:
            found.append(NoRoom(room.missing))
        filters = await asyncio.to_thread(_describe_filters, config, submission.spec)
        probed.notes = canonical_json(replace(room.document, filters=filters))
    probed.refusals.extend(
        pb.Failure(code=error.code, message=str(error), hint=error.hint or "") for error in found[:_MOST]
    )
    return probed


def _describe_filters(config: AgentConfig, spec: JobSpec) -> tuple[str, ...]:
    """What this site would do to the job's tensors; of a policy with mistakes another line speaks."""
    try:
        return tuple(describe_rules(load_policy(config.policy).filters, spec.workflow.rounds))
    except FlprovError:
        return ()


async def _find_missing(spec: JobSpec, config: AgentConfig) -> list[FlprovError]:
    """The packages that the job needs and its interpreter lacks."""
    needs = job_needs(spec)
    if not needs:
        return []
    try:
        python = load_site_settings(config.settings).python or config.python
        missing = await asyncio.to_thread(check_needs, needs, python)
    except FlprovError as error:
        return [error]
    hint = "the site's IT installs packages; a job never does"
    return [NotFound(problem, hint=hint) for problem in missing]
