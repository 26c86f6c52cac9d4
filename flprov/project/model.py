# SPDX-License-Identifier: Apache-2.0
"""A project as values: names, organisations, the server, sites, people, how long identities last."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flprov.project.names import split_address

ROLES = ("project_admin", "org_admin", "lead", "member", "observer")


@dataclass(frozen=True, kw_only=True)
class Organisation:
    """Whose a party is."""

    name: str
    title: str = ""  # for people to read; any script


@dataclass(frozen=True, kw_only=True)
class ServerParty:
    """The one process that everybody dials."""

    name: str
    org: str
    listen: str = "0.0.0.0:8443"  # where the process binds; the endpoints may differ
    endpoints: tuple[str, ...] = ()  # "host:port", as sites and people dial it
    names: tuple[str, ...] = ()  # further DNS names and IP addresses for its certificate

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """DNS names and IP addresses that its certificate must carry, each once."""
        hosts = [split_address(endpoint)[0] for endpoint in self.endpoints]
        return tuple(dict.fromkeys([*hosts, *self.names]))


@dataclass(frozen=True, kw_only=True)
class SiteParty:
    """A party with data."""

    name: str
    org: str
    proxy: str = ""  # the HTTP proxy on its way to the server, as a URL without a password; or `none`


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody who operates the network or runs jobs on it."""

    name: str
    org: str
    role: str  # one of ROLES
    email: str | None = None  # for humans; no part of the identity


@dataclass(frozen=True, kw_only=True)
class Validity:
    """How long certificates last, in days. None outlives the one that signed it."""

    root_days: int = 3650
    issuing_days: int = 1825
    server_days: float = 90.0
    site_days: float = 90.0
    person_days: float = 365.0


@dataclass(frozen=True, kw_only=True)
class Project:
    """What `project.yml` says, right in itself: every organisation exists, no name stands twice."""

    name: str
    trust_domain: str
    root_fingerprint: str | None = None  # the only root that provisioning may use, once it is pinned
    organisations: tuple[Organisation, ...]
    server: ServerParty
    sites: tuple[SiteParty, ...] = ()
    people: tuple[Person, ...]
    validity: Validity = field(default_factory=Validity)
    source: Path
