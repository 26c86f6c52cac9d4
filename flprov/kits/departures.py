# SPDX-License-Identifier: Apache-2.0
"""Whose certificates count no more although they have not expired: the list of people, and why each is on it.

On the list is who left project.yml, whose role or organisation changed, whose kit was replaced because
somebody asked for it (`provision --reissue`: a laptop was stolen), and whom the live network has removed.
Not on it is a certificate that was replaced in the course of things: because its life is nearly over,
because project.yml gives another validity, because the CA is rotated, because a kit is no longer in the
workspace (it may have been moved to its owner). Its holder must be able to work until the new kit is there,
and jobs that it signed must go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from flprov.errors import IdentityRefused
from flprov.kits.authorities import NAMES, Authorities
from flprov.kits.record import IssuedCertificate, KitRecord, ProjectRecord, RevokedPerson
from flprov.kits.trust import split_lists
from flprov.pki import (
    Kind,
    Reason,
    Revoked,
    authority_key_id,
    create_crl,
    load_anchors,
    parse_identity,
    read_crl,
)
from flprov.wire.documents import WithdrawnPerson

_CRL_DAYS = 365.0  # until nextUpdate, which is for other software: ours goes by the bundle's version
_PEOPLE = NAMES[-1]
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # no list of ours can say an earlier moment than 1950


def revoke_all(known: KitRecord, reason: Reason, now: datetime) -> Iterator[tuple[str, RevokedPerson]]:
    """Every certificate that a person still has, by serial number."""
    return _revoke(known, known.certificates, reason, now)


def revoke_withdrawn(
    record: ProjectRecord, withdrawn: Iterable[WithdrawnPerson]
) -> Iterator[tuple[str, RevokedPerson]]:
    """Those of our people's certificates that the live network refuses."""
    holders: dict[str, list[KitRecord]] = {}
    for known in _all_kits(record):
        holders.setdefault(known.identity, []).append(known)
    for entry in withdrawn:
        for known in holders.get(entry.identity, ()):
            hit = [certificate for certificate in known.certificates if _is_meant(entry, certificate)]
            yield from _revoke(known, hit, _read_reason(entry.reason), max(entry.at, _EARLIEST))


def _read_reason(text: str) -> Reason:
    """The network's word, which may be any: it must not keep the provisioner from its work."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.UNSPECIFIED


def _all_kits(record: ProjectRecord) -> tuple[KitRecord, ...]:
    return (*record.kits.values(), *(removed.kit for removed in record.removed.values()))


def _is_meant(entry: WithdrawnPerson, certificate: IssuedCertificate) -> bool:
    if entry.serial:
        return certificate.serial == entry.serial
    issued = certificate.issued_at
    return entry.before is not None and issued is not None and issued < entry.before


def _revoke(
    known: KitRecord, certificates: Iterable[IssuedCertificate], reason: Reason, at: datetime
) -> Iterator[tuple[str, RevokedPerson]]:
    if known.kind is not Kind.PERSON:
        return
    for certificate in certificates:
        if certificate.serial:
            yield (
                certificate.serial,
                RevokedPerson(
                    name=parse_identity(known.identity).name,
                    issuer=certificate.issuer,
                    not_after=certificate.not_after,
                    at=at.replace(microsecond=0),
                    reason=reason,
                ),
            )


def list_listed(
    record: ProjectRecord, authorities: Authorities, now: datetime
) -> Iterator[tuple[str, RevokedPerson]]:
    """Who is on the list already, as far as we know the certificate: a run may have died after signing it."""
    listed = {
        entry.serial: entry
        for crl in authorities.read_trust(now).people_crls
        for entry in crl.revoked.values()
    }
    for known in _all_kits(record) if listed else ():
        for certificate in known.certificates:
            entry = listed.get(int(certificate.serial or "0", 16))
            if entry is not None:
                yield from _revoke(known, [certificate], entry.reason, entry.at)


def list_missing(
    revoked: Mapping[str, RevokedPerson], authorities: Authorities, now: datetime
) -> tuple[RevokedPerson, ...]:
    """Who should be on the list of the current trust bundle and is not: then a newer one is to be signed.

    What has expired since is no reason for a new one: it goes when there is another.
    """
    believed = {authority_key_id(pem) for _, pem in _people_cas(authorities)}
    listed = authorities.read_trust(now).revoked_people
    return tuple(
        entry
        for serial, entry in revoked.items()
        if entry.not_after > now and entry.issuer in believed and int(serial, 16) not in listed
    )


def sign_lists(
    revoked: Mapping[str, RevokedPerson], authorities: Authorities, *, number: int, now: datetime
) -> str:
    """The lists, PEM: of each people CA that is believed, those of its certificates that are revoked."""
    texts = []
    for name, pem in _people_cas(authorities):
        key_id = authority_key_id(pem)
        entries = [
            Revoked(serial=int(serial, 16), at=entry.at, reason=entry.reason)
            for serial, entry in revoked.items()
            if entry.issuer == key_id and entry.not_after > now
        ]
        if entries:
            ca = authorities.authority(name)
            texts.append(create_crl(ca, entries, number=number, now=now, days=_CRL_DAYS).decode())
    return "".join(texts)


def keep_lists(people_crl: str, people: Sequence[str]) -> str:
    """Of these lists those that one of these CAs signed: a CA that has gone takes its list along."""
    anchors = load_anchors("".join(people).encode())
    kept = []
    for text in split_lists(people_crl):
        try:
            read_crl(text.encode(), anchors)
        except IdentityRefused:
            continue
        kept.append(text)
    return "".join(kept)


def _people_cas(authorities: Authorities) -> Iterator[tuple[str, bytes]]:
    for name in authorities.names:
        if name.rpartition("/")[2] == _PEOPLE:
            yield name, authorities.certificate(name)
