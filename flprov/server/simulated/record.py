# SPDX-License-Identifier: Apache-2.0
"""The record that a simulated job begins with, as if somebody had submitted it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta

from flprov._base import Clock
from flprov.jobs import JobSpec, Submission, new_job_id
from flprov.server.records import JobRecord

_PERSON = "spiffe://simulation.invalid/person/simulation/project_admin/you"
_LIFE = timedelta(days=7)


def simulated_record(
    spec: JobSpec, app: str, names: Sequence[str], refusals: Mapping[str, str], clock: Clock
) -> JobRecord:
    """A job for the sites in `names`; those in `refusals` will not run it, for these reasons.

    Raises:
        ConfigError: it breaks a rule, such as a quorum larger than its sites.
    """
    now, token = clock.now(), secrets.token_hex(16)
    submission = Submission(
        project_id="simulation",
        app=app,
        spec=spec,
        sites=tuple(names),
        token=token,
        submitted_by=_PERSON,
        made_at=now,
        not_after=now + _LIFE,
    )
    return JobRecord(
        id=new_job_id(now),
        name=spec.name,
        app=app,
        spec=spec,
        targets=tuple(names),
        submission=submission.encode().decode(),
        signature="",  # there is nobody who would not believe it
        chain="",
        token=token,
        submitted_by=_PERSON,
        submitted_at=now,
        refusals=refusals,
        granted=tuple(names),
    )
