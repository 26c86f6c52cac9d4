# SPDX-License-Identifier: Apache-2.0
"""Who is known of the people: those that the server's kit names, and those that have called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flprov.errors import Refused
from flprov.kits import PersonEntry
from flprov.pki import Identity, Kind, Role, parse_identity
from flprov.server.identities.book import CertificateRecord
from flprov.server.identities.surroundings import Surroundings
from flprov.server.revocations import Withdrawal
from flprov.wire.documents import PersonDocument


@dataclass(frozen=True, kw_only=True)
class KnownPerson:
    """One identity; a person whose role or organisation has changed has had several."""

    identity: Identity
    provisioned: bool  # the server's kit names it
    seen: tuple[CertificateRecord, ...]  # the newest last; empty: has not called yet
    given: CertificateRecord | None  # in the newest kit, as the server's kit says, if nobody came with it yet

    @property
    def newest(self) -> CertificateRecord | None:
        """The certificate that was seen last, or else the one that was given."""
        return self.seen[-1] if self.seen else self.given

    @property
    def records(self) -> tuple[CertificateRecord, ...]:
        """All that are known."""
        return (*self.seen, self.given) if self.given else self.seen


def known_people(around: Surroundings) -> dict[str, KnownPerson]:
    """Everybody, by SPIFFE URI."""
    named = {_identity(around, entry).uri: entry for entry in around.kit.people}
    uris = sorted(named.keys() | {record.identity for record in around.book})
    people = (identity for identity in map(parse_identity, uris) if identity.kind is Kind.PERSON)
    return {
        person.uri: KnownPerson(
            identity=person,
            provisioned=person.uri in named,
            seen=around.book.of(person.uri),
            given=_given(around, named.get(person.uri)),
        )
        for person in people
    }


def _identity(around: Surroundings, entry: PersonEntry) -> Identity:
    domain = around.kit.trust_domain
    return Identity(trust_domain=domain, kind=Kind.PERSON, org=entry.org, role=entry.role, name=entry.name)


def _given(around: Surroundings, entry: PersonEntry | None) -> CertificateRecord | None:
    """What the provisioner has told of a person's certificate, unless it was seen."""
    if entry is None or entry.issued_at is None or entry.not_after is None:
        return None
    if not entry.serial or around.book.knows(entry.serial):
        return None
    return CertificateRecord(
        serial=entry.serial,
        identity=_identity(around, entry).uri,
        issued_at=entry.issued_at,
        not_before=entry.issued_at,
        not_after=entry.not_after,
        issuer_key_id="",  # not told; people's lists are the provisioner's
        fingerprint="",
        how="kit",
    )


def find_people(around: Surroundings, name: str) -> list[Identity]:
    """Every identity that a person of this name has or had."""
    return [known.identity for known in known_people(around).values() if known.identity.name == name]


def why_revoked(around: Surroundings, record: CertificateRecord) -> str:
    """Why this certificate is refused: here, or by the provisioner; empty when it is not."""
    found = around.registry.revocations.find(record.identity, record.serial, record.issued_at)
    if found is not None:
        return found.said
    listed = int(record.serial, 16) in around.trust.current.revoked_people
    return "it stands on the people CRL, which the provisioner has signed" if listed else ""


def _why_refused(around: Surroundings, known: KnownPerson) -> str:
    if known.newest is not None:
        return why_revoked(around, known.newest)
    cutoff = around.registry.revocations.cutoff(known.identity.uri)
    return cutoff.said if cutoff else ""


def person_document(around: Surroundings, known: KnownPerson, last_seen: datetime | None) -> PersonDocument:
    """One person as `user ls` shows it."""
    revoked, newest, now = _why_refused(around, known), known.newest, around.clock.now()
    state = "active" if known.seen else "unseen"
    if newest is not None and newest.not_after < now:
        state = "expired"
    if revoked:
        state = "revoked"
    identity = known.identity
    return PersonDocument(
        name=identity.name,
        org=identity.org,
        role=identity.role.value if identity.role else "",
        identity=identity.uri,
        state=state,
        reason=revoked,
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
        and not why_revoked(around, record)
        for record in known.records
    )
