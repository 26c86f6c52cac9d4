# SPDX-License-Identifier: Apache-2.0
"""The parties of a project, server, sites and people alike, as provisioning goes through them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flprov.pki import Identity, Kind, Role
from flprov.project import Person, Project


@dataclass(frozen=True, kw_only=True)
class Party:
    """One who receives a kit."""

    identity: Identity
    org: str  # also the server's, whose identity has none
    names: tuple[str, ...] = ()  # host names and addresses in its certificate
    days: float  # how long its certificate is valid
    proxy: str = ""  # of a site, on its way to the server

    @property
    def name(self) -> str:
        """Its name, which no other party of the project has; also its kit's."""
        return self.identity.name

    @property
    def kind(self) -> Kind:
        """Server, site or person."""
        return self.identity.kind


def list_parties(project: Project) -> Iterator[Party]:
    """The server, then the sites, then the people, in the order of project.yml."""
    domain, server, days = project.trust_domain, project.server, project.validity
    yield Party(
        identity=Identity(trust_domain=domain, kind=Kind.SERVER, name=server.name),
        org=server.org,
        names=server.certificate_names,
        days=days.server_days,
    )
    for site in project.sites:
        identity = Identity(trust_domain=domain, kind=Kind.SITE, name=site.name, org=site.org)
        yield Party(identity=identity, org=site.org, days=days.site_days, proxy=site.proxy)
    for person in project.people:
        identity = Identity(
            trust_domain=domain, kind=Kind.PERSON, name=person.name, org=person.org, role=Role(person.role)
        )
        yield Party(identity=identity, org=person.org, days=days.person_days)


def contact_of(project: Project) -> str:
    """Whom the receiver of a kit can ask: the first project_admin."""
    admins = (person for person in project.people if person.role == Role.PROJECT_ADMIN.value)
    person = next(admins, None)
    return _describe(person) if person else "whoever sent you this kit"


def _describe(person: Person) -> str:
    return f"{person.name} <{person.email}>" if person.email else f"{person.name} of {person.org}"
