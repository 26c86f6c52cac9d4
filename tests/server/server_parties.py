# SPDX-License-Identifier: Apache-2.0
"""Who belongs to the project of these tests, and the small things that they send."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from flprov.jobs import JobSpec, JobState, Membership, Resources, Submission
from flprov.kits import Kit
from flprov.pki import Identity, Kind, Role, sign
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty
from flprov.server.records import BlobRef, JobRecord, StateRef, UpdateRecord
from flprov.wire import encode_tensors, pb
from flprov.wire.documents import CPU, Space, Vitals

DOMAIN = "heart.example"
NOW = datetime(2026, 1, 1, tzinfo=UTC)  # where a FakeClock starts

SITE_ORGS = {"site-1": "org-a", "site-2": "org-b", "site-3": "org-a"}
SITES = tuple(SITE_ORGS)
PEOPLE = {
    "ada": ("org-a", Role.PROJECT_ADMIN),
    "leo": ("org-a", Role.LEAD),
    "lea": ("org-b", Role.LEAD),
    "olga": ("org-b", Role.ORG_ADMIN),
    "mia": ("org-a", Role.MEMBER),
    "milo": ("org-b", Role.MEMBER),
    "obi": ("org-b", Role.OBSERVER),
}

PROJECT = Project(
    name="heart",
    trust_domain=DOMAIN,
    organisations=(Organisation(name="org-a"), Organisation(name="org-b")),
    # Nobody listens on port 1: a server that looks for its twin there is refused at once.
    server=ServerParty(name="server", org="org-a", listen="127.0.0.1:0", endpoints=("127.0.0.1:1",)),
    sites=tuple(SiteParty(name=name, org=org) for name, org in SITE_ORGS.items()),
    people=tuple(Person(name=name, org=org, role=role.value) for name, (org, role) in PEOPLE.items()),
    source=Path("project.yml"),
)


def site(name: str, org: str = "") -> Identity:
    return Identity(trust_domain=DOMAIN, kind=Kind.SITE, org=org or SITE_ORGS[name], name=name)


def person(name: str) -> Identity:
    org, role = PEOPLE[name]
    return Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org=org, role=role, name=name)


ADA, LEO, LEA, OLGA, MIA, MILO, OBI = (person(name) for name in PEOPLE)


def tensors(*values: float, name: str = "w") -> bytes:
    """One float32 tensor as a safetensors file."""
    return encode_tensors({name: np.array(values, dtype=np.float32)})


NO_TENSORS = encode_tensors({})


def inline(data: bytes) -> BlobRef:
    return BlobRef(inline=data.hex(), size=len(data))


def inline_state(data: bytes) -> StateRef:
    return StateRef(inline=data.hex(), size=len(data))


def payload(data: bytes) -> pb.Payload:
    return pb.Payload(inline=data, size=len(data))


def spec(*, sites: Membership | None = None, grace: float = 0.0, **changes: Any) -> JobSpec:
    """The job of the app in conftest.py."""
    return JobSpec(
        name="heart",
        tasks={"train": "train.py"},
        sites=sites or Membership(min=2),
        resources=Resources(grace_seconds=grace),
        **changes,
    )


def job_record(app: str, *, id: str = "0job", targets: tuple[str, ...] = SITES, **changes: Any) -> JobRecord:  # noqa: A002 - the field's word
    """A queued job of leo's."""
    found = {
        "name": "heart",
        "spec": spec(),
        "submission": "{}",
        "signature": "00",
        "chain": "",
        "token": f"token-{id}",
        "submitted_by": LEO.uri,
        "submitted_at": NOW,
        "state": JobState.QUEUED,
    } | changes
    return JobRecord(id=id, app=app, targets=targets, **found)


def update_record(site_name: str, task_id: str, *, job: str = "0job", **changes: Any) -> UpdateRecord:
    found = {
        "kind": "full",
        "tensors": inline(tensors(1, 2)),
        "samples": 10,
        "weight": None,
        "metrics": {"loss": 0.5},
        "seconds": 1.5,
    } | changes
    return UpdateRecord(job_id=job, task_id=task_id, site=site_name, **found)


def vitals(**changes: Any) -> Vitals:
    """A machine on which every job of these tests finds room."""
    whole = Vitals(
        cpu=CPU(count=64, load=0.5, percent=3.0),
        memory=Space(total=64 << 30, available=32 << 30),
        disk=Space(total=64 << 30, available=32 << 30),
        confinement="landlock",
    )
    return replace(whole, **changes)


def submission(kit: Kit, app: str, **changes: Any) -> Submission:
    """What the person with this kit would sign."""
    found = {
        "spec": spec(),
        "sites": SITES,
        "token": "t-1",
        "submitted_by": kit.identity.uri,
        "made_at": kit.made_at,
        "not_after": kit.made_at + timedelta(days=7),
        "project_id": kit.project_id,
    } | changes
    return Submission(app=app, **found)


def signed(kit: Kit, wish: Submission) -> pb.SubmitRequest:
    data = wish.encode()
    return pb.SubmitRequest(submission=data, signature=sign(kit.private_pem, data), chain=kit.chain_pem)
