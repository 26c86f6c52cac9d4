# SPDX-License-Identifier: Apache-2.0
"""A small project for the rpc tests: one authority of each kind and a credential for anybody."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flprov.pki import (
    Anchors,
    Authority,
    Credential,
    Identity,
    Kind,
    Role,
    create_issuing,
    create_root,
    issue_identity,
    join_anchors,
    load_anchors,
)

DOMAIN = "hospitals.example"
NAMES = ("localhost", "127.0.0.1")

SERVER = Identity(trust_domain=DOMAIN, kind=Kind.SERVER, name="server")
SITE = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="north", name="site-a")
OTHER_SITE = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="south", name="site-b")

INVITE = Identity(
    trust_domain=DOMAIN, kind=Kind.INVITE, org="north", name="site-a", invite="0123456789abcdef"
)


def person(role: Role) -> Identity:
    return Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="north", role=role, name="kim")


LEAD = person(Role.LEAD)


@dataclass(frozen=True, kw_only=True)
class Project:
    """The CAs of one project."""

    root: Authority
    servers: Authority
    sites: Authority
    people: Authority

    @property
    def server_anchors(self) -> Anchors:
        return load_anchors(self.servers.certificate_pem)

    @property
    def caller_anchors(self) -> Anchors:
        return join_anchors(
            load_anchors(self.sites.certificate_pem), load_anchors(self.people.certificate_pem)
        )

    def issue(self, identity: Identity, *, now: datetime | None = None, days: float = 30) -> Credential:
        cas = {Kind.SERVER: self.servers, Kind.PERSON: self.people}
        ca = cas.get(identity.kind, self.sites)
        names = NAMES if identity.kind is Kind.SERVER else ()
        return issue_identity(ca, identity, names=names, days=days, now=now or datetime.now(UTC))


def make_project(domain: str = DOMAIN, *, days: int = 3650) -> Project:
    now = datetime.now(UTC) - timedelta(days=400)
    root = create_root(project="heart", trust_domain=domain, days=days, now=now)
    return Project(
        root=root,
        servers=create_issuing(root, kind=Kind.SERVER, days=days, now=now),
        sites=create_issuing(root, kind=Kind.SITE, days=days, now=now),
        people=create_issuing(root, kind=Kind.PERSON, days=days, now=now),
    )


@functools.cache
def project() -> Project:
    """The project of the server under test."""
    return make_project()


@functools.cache
def credential(identity: Identity) -> Credential:
    """A good credential of that project."""
    return project().issue(identity)
