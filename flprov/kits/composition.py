# SPDX-License-Identifier: Apache-2.0
"""What a kit should hold: the texts, the anchors, the registry, around a party's certificate and key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flprov._base import canonical_json
from flprov.kits.authorities import UNITS, Authorities
from flprov.kits.holding import Held
from flprov.kits.kit import PersonEntry, Registry, RegistryEntry
from flprov.kits.manifest import ANCHORS, AUTHORITY, CERTIFICATE, KEY, REGISTRY, ROOT, TRUST, Files
from flprov.kits.party import Party, contact_of
from flprov.kits.record import IssuedCertificate
from flprov.kits.texts import NetworkFacts, Texts
from flprov.pki import Kind, Role
from flprov.project import Project

_BELIEVES: Mapping[Kind, tuple[Kind, ...]] = {
    Kind.SERVER: (Kind.SITE, Kind.PERSON, Kind.SERVER),
    Kind.SITE: (Kind.SERVER, Kind.PERSON),
    Kind.PERSON: (Kind.SERVER,),
}


class Composer:
    """Composes the kits of one project: everything but manifest and signature."""

    def __init__(self, project: Project, parties: Sequence[Party], authorities: Authorities) -> None:
        self._authorities = authorities
        self._parties = parties
        self._people: Mapping[str, IssuedCertificate] = {}
        self._texts = Texts(
            NetworkFacts(
                project=project.name,
                project_id=authorities.record.project_id,
                trust_domain=project.trust_domain,
                contact=contact_of(project),
                server=project.server.name,
                endpoints=project.server.endpoints,
                listen=project.server.listen,
                server_days=project.validity.server_days,
                site_days=project.validity.site_days,
            )
        )

    def register(self, people: Mapping[str, IssuedCertificate]) -> None:
        """Name people's certificates in the server's registry. Before the server's kit is composed."""
        self._people = people

    def recipe(self, party: Party, held: Held) -> str:
        """What the texts of one party's kit are made from, as a digest; much quicker than making them."""
        return self._texts.recipe(
            party.identity, org=party.org, not_after=held.certificate.not_after, proxy=party.proxy
        )

    def text_names(self, kind: Kind) -> Sequence[str]:
        """The texts that a kit of this kind has."""
        return self._texts.names(kind)

    def compose(self, party: Party, held: Held, *, texts: Files | None = None) -> Files:
        """The files of one party's kit.

        Args:
            party: whose.
            held: its certificate and key.
            texts: those of an earlier run with the same recipe; rendered when None.
        """
        if texts is None:
            texts = self._texts.render(
                party.identity, org=party.org, not_after=held.certificate.not_after, proxy=party.proxy
            )
        files = {
            **texts,
            CERTIFICATE: (held.chain_pem, 0o644),
            KEY: (held.private_pem, 0o600),
            ROOT: (self._authorities.anchors_pem(None), 0o644),
        }
        for kind in _BELIEVES[party.kind]:
            files[f"{ANCHORS}/{UNITS[kind]}.pem"] = (self._authorities.anchors_pem(kind), 0o644)
        if party.kind is Kind.SERVER:
            files |= self._compose_authority()
        return files

    def _compose_authority(self) -> Files:
        """What a server alone has: the CAs that it signs with, whom it knows, the trust bundle."""
        authorities = self._authorities
        files = {
            REGISTRY: (_encode_registry(self._parties, self._people), 0o644),
            TRUST: (authorities.signed_trust.encode(), 0o644),
        }
        for kind in (Kind.SERVER, Kind.SITE):
            files[f"{AUTHORITY}/{UNITS[kind]}.pem"] = (authorities.anchor(kind), 0o644)
            files[f"{AUTHORITY}/{UNITS[kind]}.key.pem"] = (authorities.key_pem(kind), 0o600)
        return files


def _encode_registry(parties: Sequence[Party], people: Mapping[str, IssuedCertificate]) -> bytes:
    """`registry.json`: the sites and people that a server knows."""
    registry = Registry(
        sites=tuple(
            RegistryEntry(name=party.name, org=party.org) for party in parties if party.kind is Kind.SITE
        ),
        people=tuple(
            _person_entry(party, party.identity.role, people.get(party.name))
            for party in parties
            if party.identity.role is not None
        ),
    )
    return canonical_json(registry) + b"\n"


def _person_entry(party: Party, role: Role, certificate: IssuedCertificate | None) -> PersonEntry:
    return PersonEntry(
        name=party.name,
        org=party.org,
        role=role,
        serial=certificate.serial if certificate else "",
        issued_at=certificate.issued_at if certificate else None,
        not_after=certificate.not_after if certificate else None,
    )
