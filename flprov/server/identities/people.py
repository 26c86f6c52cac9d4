# SPDX-License-Identifier: Apache-2.0
"""Who is known of the people: those that the server's kit names, and those that have called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flprov.errors import Refused
from flprov.pki import Identity, Kind, Role, parse_identity
from flprov.server.identities.book import CertificateRecord
from flprov.server.identities.surroundings import Surroundings
from flprov.server.revocations import Revocation, Withdrawal
from flprov.wire.documents import PersonDocument


@dataclass(frozen=True, kw_only=True)
class KnownPerson:
    """One identity; a person whose role or organisation has changed has had several."""

    identity: Identity
    provisioned: bool  # the server's kit names it
    records: tuple[CertificateRecord, ...]  # the newest last; empty: has not called yet

    @property
    def newest(self) -> CertificateRecord | None:
        """The certificate that was issued last, of those that were seen."""
        return self.records[-1] if self.records else None


def known_people(around: Surroundings) -> dict[str, KnownPerson]:
    """Everybody, by SPIFFE URI."""
    domain = around.kit.trust_domain
    named = {
        Identity(trust_domain=domain, kind=Kind.PERSON, org=p.org, role=p.role, name=p.name).uri
        for p in around.kit.people
    }
    seen = {record.identity for record in around.book}
    people = (parse_identity(uri) for uri in sorted(named | seen))
    return {
        person.uri: KnownPerson(
            identity=person, provisioned=person.uri in named, records=around.book.of(person.uri)
        )
        for person in people
        if person.kind is Kind.PERSON
    }


def find_people(around: Surroundings, name: str) -> list[Identity]:
    """Every identity that a person of this name has or had."""
    return [known.identity for known in known_people(around).values() if known.identity.name == name]


def revocation_of(around: Surroundings, known: KnownPerson) -> Revocation | None:
    """Why this person is refused now; None when nothing is known against the newest certificate."""
    revocations = around.registry.revocations
    if known.newest is None:
        return revocations.cutoff(known.identity.uri)
    return revocations.find(known.identity.uri, known.newest.serial, known.newest.issued_at)


def person_document(around: Surroundings, known: KnownPerson, last_seen: datetime | None) -> PersonDocument:
    """One person as `user ls` shows it."""
    revoked, newest, now = revocation_of(around, known), known.newest, around.clock.now()
    state = "active" if newest else "unseen"
    if newest is not None and newest.not_after < now:
        state = "expired"
    if revoked is not None:
        state = "revoked"
    identity = known.identity
    return PersonDocument(
        name=identity.name,
        org=identity.org,
        role=identity.role.value if identity.role else "",
        identity=identity.uri,
        state=state,
        reason=revoked.said if revoked else "",
        last_seen=last_seen,
        cert_not_after=newest.not_after if newest else None,
        provisioned=known.provisioned,
    )


def verify_admin_remains(around: Surroundings, withdrawals: Iterable[Withdrawal]) -> None:
    """Nothing, if after these revocations some project_admin can still call.

    Raises:
        Refused: nobody could manage the network any more, not even to undo this.
    """
    planned = tuple(withdrawals)
    admins = [known for known in known_people(around).values() if known.identity.role is Role.PROJECT_ADMIN]
    before = [known for known in admins if _can_call(around, known, ())]
    if not before or any(_can_call(around, known, planned) for known in admins):
        return
    names = ", ".join(known.identity.name for known in before)
    raise Refused(
        f"this would take the certificate of the last project_admin ({names}), and nobody could manage"
        " this network any more",
        hint="first make a new kit (flprov provision) and call with it once (flprov status); then revoke the"
        " old certificate by its serial number (flprov cert ls)",
    )


def _can_call(around: Surroundings, known: KnownPerson, planned: tuple[Withdrawal, ...]) -> bool:
    """Whether some certificate of this person counts, now and with what is planned."""
    uri, revocations = known.identity.uri, around.registry.revocations
    cutoffs = [w.cutoff for w in planned if w.cutoff is not None and w.cutoff.identity == uri]
    serials = {entry.serial for w in planned for entry in w.serials}
    if not known.records:
        return not cutoffs and revocations.cutoff(uri) is None
    now = around.clock.now()
    return any(
        record.not_after > now
        and record.serial not in serials
        and not any(record.issued_at < cutoff.before for cutoff in cutoffs)
        and revocations.find(uri, record.serial, record.issued_at) is None
        for record in known.records
    )
