# SPDX-License-Identifier: Apache-2.0
"""What the live network believes and who has heard of it, as one document. Nothing here changes anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flprov.kits import Trust
from flprov.pki import Identity, Kind, Role, describe_leaf, fingerprint, not_after, parse_identity
from flprov.server.identities.book import CertificateRecord
from flprov.server.identities.surroundings import Surroundings
from flprov.wire import documents as doc

_UNITS = ("root", "servers", "sites", "people")


def trust_document(around: Surroundings, held: Mapping[str, int]) -> doc.TrustStatusDocument:
    """The bundle in force, every party with what it holds, and whom this network has thrown out.

    Args:
        around: the server's parts.
        held: by identity, the version that somebody has said to hold.
    """
    trust = around.trust.current
    return doc.TrustStatusDocument(
        version=trust.version,
        phase=trust.says.phase,
        made_at=trust.says.made_at,
        endpoints=around.kit.endpoints,
        authorities=tuple(list_authorities(trust)),
        holders=(_server(around), *_sites(around, held), *_people(around, held)),
        withdrawn=tuple(_withdrawn(around)),
        removed_sites=around.registry.removed,
    )


def list_authorities(trust: Trust) -> Iterator[doc.AuthorityDocument]:
    """Every CA of a bundle."""
    second = "waiting" if trust.says.phase == "prepared" else "leaving"
    for unit in _UNITS:
        for number, anchor in enumerate(trust.anchors[unit].members):
            pem = anchor.certificate.pem
            yield doc.AuthorityDocument(
                unit=unit,
                state="active" if number == 0 else second,
                fingerprint=fingerprint(pem),
                key_id=anchor.key_id.hex(),
                not_after=not_after(pem),
            )


def newest(around: Surroundings, identity: str) -> CertificateRecord | None:
    """The newest certificate of an identity that has not expired and that the server knows of."""
    found = around.book.valid(identity, around.clock.now())
    return found[-1] if found else None


def _server(around: Surroundings) -> doc.TrustHolder:
    leaf = describe_leaf(around.credential()[0])
    return doc.TrustHolder(
        name=around.kit.name,
        kind=Kind.SERVER.value,
        org="",
        identity=leaf.identity.uri,
        version=around.trust.current.version,
        ca=leaf.issuer_key_id,
        not_after=leaf.not_after,
        connected=True,
        from_kit=True,
    )


def _sites(around: Surroundings, held: Mapping[str, int]) -> Iterator[doc.TrustHolder]:
    registry = around.registry
    for name, site in sorted(registry.sites.items()):
        barred = registry.barred(name)
        yield _holder(
            around,
            registry.identity(site),
            held,
            connected=name in around.sessions,
            barred=barred.state if barred else "",
            from_kit=registry.provisioned_org(name) is not None,
        )


def _people(around: Surroundings, held: Mapping[str, int]) -> Iterator[doc.TrustHolder]:
    """Those that the kit names, and whoever else has called with a certificate that is still valid."""
    domain = around.kit.trust_domain
    named = {_person(domain, entry.org, entry.role, entry.name).uri for entry in around.kit.people}
    now = around.clock.now()
    seen = {record.identity for record in around.book if record.not_after > now}
    people = named | {uri for uri in seen if parse_identity(uri).kind is Kind.PERSON}
    for uri in sorted(people):
        yield _holder(around, parse_identity(uri), held, barred=_barred(around, uri), from_kit=uri in named)


def _barred(around: Surroundings, uri: str) -> str:
    found = newest(around, uri)
    if found is None:
        return "refused" if around.registry.revocations.cutoff(uri) else ""
    listed = int(found.serial, 16) in around.trust.current.revoked_people
    revoked = around.registry.revocations.find(uri, found.serial, found.issued_at)
    return "refused" if listed or revoked else ""


def _person(domain: str, org: str, role: Role, name: str) -> Identity:
    return Identity(trust_domain=domain, kind=Kind.PERSON, org=org, role=role, name=name)


def _holder(
    around: Surroundings,
    identity: Identity,
    held: Mapping[str, int],
    *,
    connected: bool = False,
    barred: str = "",
    from_kit: bool = False,
) -> doc.TrustHolder:
    found = newest(around, identity.uri)
    return doc.TrustHolder(
        name=identity.name,
        kind=identity.kind.value,
        org=identity.org,
        identity=identity.uri,
        version=held.get(identity.uri, 0),
        ca=found.issuer_key_id if found else "",
        not_after=found.not_after if found else None,
        connected=connected,
        barred=barred,
        from_kit=from_kit,
    )


def _withdrawn(around: Surroundings) -> Iterator[doc.WithdrawnPerson]:
    """People whom this network refuses: the provisioner puts them on its list."""
    now = around.clock.now()
    for entry in around.registry.revocations.serials:
        if entry.not_after > now and parse_identity(entry.identity).kind is Kind.PERSON:
            yield doc.WithdrawnPerson(
                identity=entry.identity, at=entry.at, reason=entry.reason.value, serial=entry.serial
            )
    for cutoff in around.registry.revocations.cutoffs:
        if parse_identity(cutoff.identity).kind is Kind.PERSON:
            yield doc.WithdrawnPerson(
                identity=cutoff.identity, at=cutoff.at, reason=cutoff.reason.value, before=cutoff.before
            )
