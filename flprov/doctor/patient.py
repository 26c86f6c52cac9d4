# SPDX-License-Identifier: Apache-2.0
"""Who is examined: a kit as far as it can be read, and how it would dial."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flprov._base import to_iso
from flprov.errors import FlprovError
from flprov.kits import KitSketch, Papers
from flprov.pki import Identity, Kind, certificate_identity, not_after, not_before
from flprov.policy import load_site_settings
from flprov.project import DIRECT, Route


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A certificate of the patient's. `repr` shows no key."""

    papers: Papers
    identity: Identity
    not_before: datetime
    not_after: datetime

    def is_valid(self, now: datetime) -> bool:
        """Whether its time has come and not gone."""
        return self.not_before <= now <= self.not_after


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A kit and this machine, as of `now`."""

    kit: KitSketch
    now: datetime
    route: Route = DIRECT  # how the server is dialled
    credential: Credential | None = None  # the newest that can be read
    unreadable: str = ""  # why there is none

    def own(self) -> tuple[bytes, bytes]:
        """Chain and key to dial with; empty where `why_not_own` says why."""
        if self.credential is None or self.why_not_own():
            return b"", b""
        return self.credential.papers.chain_pem, self.credential.papers.private_pem

    def why_not_own(self) -> str:
        """Why we cannot show the server a certificate; empty if we can."""
        if self.kit.kind is Kind.SERVER:
            return "this is the server's own kit, and a server calls nobody"
        if self.credential is None:
            return self.unreadable
        if self.credential.papers.key_problem:
            return self.credential.papers.key_problem
        if not self.credential.is_valid(self.now):
            span = f"from {to_iso(self.credential.not_before)} to {to_iso(self.credential.not_after)}"
            return f"our certificate is valid {span} only"
        return ""


def describe_patient(kit: KitSketch, *, environment: Route | None, now: datetime) -> Patient:
    """The patient whose kit this is.

    Args:
        environment: the proxy that the environment names.
    """
    found, unreadable = _newest(kit, now)
    return Patient(
        kit=kit,
        now=now,
        route=_own_route(kit) or kit.route or environment or DIRECT,
        credential=found,
        unreadable=unreadable,
    )


def _own_route(kit: KitSketch) -> Route | None:
    if kit.kind is not Kind.SITE:
        return None
    try:
        return load_site_settings(kit.local / "site.yml").route
    except FlprovError:
        return None  # the row of site.yml says what is wrong with it


def _newest(kit: KitSketch, now: datetime) -> tuple[Credential | None, str]:
    """The one that the party uses: the newest that is valid and fits its key, else the newest."""
    found: list[Credential] = []
    unreadable = "the kit has no certificate that can be read"
    for papers in kit.papers:
        try:
            found.append(_credential(papers))
        except FlprovError as error:
            unreadable = f"{papers.source}: {error}"
    usable = [one for one in found if one.is_valid(now) and not one.papers.key_problem]
    best = max(usable or found, key=lambda one: one.not_before, default=None)
    return best, unreadable


def _credential(papers: Papers) -> Credential:
    return Credential(
        papers=papers,
        identity=certificate_identity(papers.chain_pem),
        not_before=not_before(papers.chain_pem),
        not_after=not_after(papers.chain_pem),
    )
