# SPDX-License-Identifier: Apache-2.0
"""A submission: the one statement that a person signs and that every site checks for itself.

What is signed is a sequence of bytes, not a value: `encode` makes them, the signature is over
them, they travel and are stored unchanged, and `decode_submission` takes them only if they are
exactly what this version would have written. So nothing can be slipped into a signed submission
that a reader passes over, and no two readers see two meanings in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

from flprov._base import canonical_json, dataclass, from_document, parse_json, to_document, to_iso
from flprov.config import shown
from flprov.errors import ConfigError, ProtocolError, Refused
from flprov.jobs.job import JobSpec
from flprov.jobs.rules import MOST_SITES, SITE, verify_spec

FORMAT = 1  # the value of the field `flprov`; goes up when a field changes its meaning
LONGEST = 1 << 20  # bytes; a thousand sites take 20 KiB
_SKEW = timedelta(minutes=5)  # Kerberos' allowance for clocks (RFC 4120, section 1.6)
_TOKEN = re.compile(r"[!-~]{1,128}")  # visible ASCII; an empty token would make all jobs one
_DIGEST = re.compile(r"[0-9a-f]{64}")
_URI = re.compile(r"spiffe://[!-~]{1,247}")
_JOB_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
# Fields that came later. They are left out where they say nothing, so that what was signed before they
# were is still what `encode` makes; a reader that does not know one refuses it by name.
_LATER: tuple[tuple[tuple[str, ...], object], ...] = (
    (("origin",), None),
    (("plan",), False),
    (("spec", "priority"), 0),
    (("spec", "resources", "disk"), 0),
    (("spec", "sites", "late"), "take"),
    (("spec", "sites", "max_weight"), None),
    (("spec", "workflow", "seed"), 0),
    (("spec", "workflow", "best"), None),
    (("spec", "workflow", "mode"), "max"),
    (("spec", "workflow", "patience"), 0),
    (("spec", "workflow", "min_delta"), 0.0),
)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The job of which this one is a clone, and how many of its rounds are taken as done."""

    job_id: str
    round: int = 0  # the clone starts at this one, with the state saved after so many; 0: from the start


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One person's wish to run one app, with everything resolved."""

    project_id: str
    app: str  # digest of the bundle
    spec: JobSpec  # as it will run: job.yml with every --set applied
    sites: tuple[str, ...]  # every site that it may be sent to
    token: str  # idempotency key: the same person's same token is the same job
    submitted_by: str  # the person's URI; whoever checks the signature compares it
    made_at: datetime
    not_after: datetime  # nobody acts on it for the first time after this
    origin: Origin | None = None  # of a clone
    plan: bool = False  # signed to ask what would come of it; no server and no site runs it

    def encode(self) -> bytes:
        """The bytes to sign: canonical JSON, times to the millisecond.

        Raises:
            ConfigError: the submission breaks a rule, such as a quorum larger than its sites.
        """
        _verify(self)
        data = canonical_json(_to_document(self))
        if len(data) > LONGEST:
            raise ConfigError(f"the submission has {len(data):,} bytes; at most {LONGEST:,} are allowed")
        return data

    def verify_fresh(self, now: datetime) -> None:
        """Refuse a submission that is too old to act on, or not made yet.

        Raises:
            Refused: it is; clocks may be five minutes apart.
        """
        here = f"and it is {to_iso(now)} here"
        if now > self.not_after:
            raise Refused(
                f"the submission of {self.spec.name} was valid until {to_iso(self.not_after)}, {here}",
                hint="submit the job again",
            )
        if self.made_at > now + _SKEW:
            raise Refused(
                f"the submission of {self.spec.name} was made at {to_iso(self.made_at)}, {here}",
                hint="set the clock of one of the two machines",
            )


def decode_submission(data: bytes) -> Submission:
    """The submission in these bytes; who signed them is for the caller to check.

    Raises:
        ProtocolError: they are not exactly what `encode` makes, or a rule is broken.
    """
    if len(data) > LONGEST:
        raise ProtocolError(f"the submission has {len(data):,} bytes; at most {LONGEST:,} are read")
    try:
        document = parse_json(data)
        _verify_format(document)
        found = from_document(Submission, document)
        _verify(found)
        again = canonical_json(_to_document(found))
    except (ValueError, OverflowError, RecursionError, ConfigError) as error:
        raise ProtocolError(f"the submission cannot be read: {error}") from error
    if again != data:
        extra = _first_extra(document, _to_document(found), "")
        what = f"has a field that nobody asked for: {shown(extra)}" if extra else "is not in canonical form"
        raise ProtocolError(f"the submission {what}")
    return found


def _to_document(submission: Submission) -> dict[str, Any]:
    document: dict[str, Any] = {"flprov": FORMAT, **to_document(submission)}
    for path, silent in _LATER:
        place = document
        for key in path[:-1]:
            place = place[key]
        if place[path[-1]] == silent:
            del place[path[-1]]
    return document


def _verify_format(document: object) -> None:
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    version = document.get("flprov")
    if type(version) is not int or version != FORMAT:
        raise ValueError(f"its format is {shown(str(version))}, this flprov reads {FORMAT}")


def _verify(submission: Submission) -> None:
    verify_spec(submission.spec)
    problems = []
    for name, pattern in (
        ("app", _DIGEST),
        ("token", _TOKEN),
        ("submitted_by", _URI),
        ("project_id", _TOKEN),
    ):
        value = cast("str", getattr(submission, name))
        if not pattern.fullmatch(value):
            problems.append(f"{name} cannot be {shown(value)}")
    problems += _site_problems(submission)
    problems += _origin_problems(submission)
    if submission.not_after <= submission.made_at:
        problems.append("not_after is not after made_at")
    if problems:
        raise ConfigError(problems)


def _site_problems(submission: Submission) -> list[str]:
    sites, membership = submission.sites, submission.spec.sites
    problems = [
        f"sites: {shown(name)} is not a site's name" for name in sites if not re.fullmatch(SITE, name)
    ]
    if not 1 <= len(sites) <= MOST_SITES:
        problems.append(f"sites: a job runs on 1 to {MOST_SITES} sites, not on {len(sites)}")
    if len(set(sites)) != len(sites):
        problems.append("sites: one is named twice")
    outside = [name for name in membership.required if name not in sites]
    if outside:
        problems.append(f"sites.required names {', '.join(outside)}, which the job is not sent to")
    if membership.min is not None and membership.min > len(sites):
        problems.append(f"sites.min is {membership.min}, but the job is sent to {len(sites)} only")
    return problems[:10]


def _origin_problems(submission: Submission) -> list[str]:
    origin, rounds = submission.origin, submission.spec.workflow.rounds
    if origin is None:
        return []
    problems = []
    if not _JOB_ID.fullmatch(origin.job_id):
        problems.append(f"origin.job_id cannot be {shown(origin.job_id)}")
    if origin.round < 0:
        problems.append(f"origin.round is {origin.round}")
    if origin.round >= rounds:
        what = f"the clone would begin with {origin.round} rounds done and has {rounds} in all"
        problems.append(f"{what}: set rounds to more")
    return problems


def _first_extra(document: object, known: object, where: str) -> str:
    """The path of the first key of `document` that `known` lacks; empty when there is none."""
    if isinstance(document, dict) and isinstance(known, Mapping):
        for key, value in document.items():
            path = f"{where}.{key}" if where else str(key)
            if key not in known:
                return path
            if extra := _first_extra(value, known[key], path):
                return extra
    return ""
