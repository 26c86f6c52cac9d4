# SPDX-License-Identifier: Apache-2.0
"""Every certificate that matters, as `cert ls` shows it: CAs, server, sites, people, open invites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from flprov.pki import (
    Identity,
    Kind,
    describe_leaf,
    fingerprint,
    issued_at,
    not_after,
    parse_identity,
    serial_number,
)
from flprov.server.identities.book import CertificateRecord, describe
from flprov.server.identities.invites import UNDECIDED, InviteBook
from flprov.server.identities.people import known_people, why_revoked
from flprov.server.identities.surroundings import Surroundings
from flprov.wire.documents import CertificateDocument

_RENEWED_BY = 2 / 3  # of its life: what renews itself does so at a third, and has had as long again to try
_HINTS = {
    "root": "a new root is made where the project is provisioned: flprov ca rotate prepare --root",
    "ca": "a new one is made where the project is provisioned: flprov ca rotate prepare",
    "person": "a new kit is made where the project is provisioned: flprov provision project.yml",
}


def list_certificates(
    around: Surroundings, now: datetime, *, every: bool = False
) -> tuple[CertificateDocument, ...]:
    """What ends first comes first; what is not known yet comes last.

    Args:
        around: the server's parts.
        now: for the days left.
        every: also certificates that were replaced, or have expired.
    """
    found = [
        *_authorities(around),
        _server(around),
        *_sites(around),
        *_people(around),
        *_invites(around, now),
    ]
    if every:
        shown = {line.serial for line in found}
        found += [_line(around, record) for record in around.book if record.serial not in shown]
    finished = [_finish(line, now) for line in found]
    return tuple(
        sorted(finished, key=lambda line: (line.not_after is None, line.not_after or now, line.subject))
    )


def due_at(line: CertificateDocument) -> datetime | None:
    """When something that renews itself has gone too long without; of others, two thirds of the life."""
    if line.issued_at is None or line.not_after is None:
        return None
    return line.issued_at + (line.not_after - line.issued_at) * _RENEWED_BY


def _authorities(around: Surroundings) -> Iterator[CertificateDocument]:
    says = around.trust.current.says
    groups = {
        "root": says.roots,
        "servers CA": says.servers,
        "sites CA": says.sites,
        "people CA": says.people,
    }
    for name, texts in groups.items():
        for text in texts:
            pem = text.encode()
            yield CertificateDocument(
                subject=name,
                kind="root" if name == "root" else "ca",
                identity="",
                state="valid",
                serial=serial_number(pem),
                issued_at=issued_at(pem),
                not_after=not_after(pem),
                how="provision",
                fingerprint=fingerprint(pem),
            )


def _server(around: Surroundings) -> CertificateDocument:
    provisioned = describe(describe_leaf(around.kit.chain_pem), "kit")
    renewed = around.book.of(around.kit.identity.uri)
    return _line(around, max([provisioned, *renewed], key=lambda record: record.issued_at))


def _sites(around: Surroundings) -> Iterator[CertificateDocument]:
    for _, site in sorted(around.registry.sites.items()):
        identity = around.registry.identity(site)
        records = around.book.of(identity.uri)
        line = _line(around, records[-1]) if records else _unseen(identity)
        lock = around.registry.enrolment(site.name).locked
        if lock is not None and line.state != "revoked":
            line = replace(line, state="locked", reason=lock.said, hint=f"flprov site unlock {site.name}")
        yield line


def _people(around: Surroundings) -> Iterator[CertificateDocument]:
    for uri, known in known_people(around).items():
        newest, given = known.newest, known.given
        if newest is None:
            cutoff = around.registry.revocations.cutoff(uri)
            line = _unseen(known.identity)
            yield replace(line, state="revoked", reason=cutoff.said) if cutoff else line
        elif given is not None and newest is not given and given.issued_at > newest.issued_at:
            waits = f"a newer kit was made on {given.issued_at:%Y-%m-%d} and has not been used yet"
            line = _line(around, newest)
            yield replace(line, reason=line.reason or waits)
        else:
            yield _line(around, newest)


def open_invites(around: Surroundings, now: datetime) -> list[CertificateRecord]:
    """The certificates of invites that can still be used."""
    book = InviteBook(around.store)
    book.load()
    undecided = [invite for invite in book if invite.state(now) in UNDECIDED]
    return [describe(describe_leaf(invite.certificate.encode()), "invite") for invite in undecided]


def _invites(around: Surroundings, now: datetime) -> Iterator[CertificateDocument]:
    for record in open_invites(around, now):
        yield _line(around, record)


def _unseen(identity: Identity) -> CertificateDocument:
    return CertificateDocument(
        subject=identity.name,
        kind=identity.kind.value,
        identity=identity.uri,
        state="unseen",
        renews_itself=identity.kind is Kind.SITE,
    )


def _line(around: Surroundings, record: CertificateRecord) -> CertificateDocument:
    identity = parse_identity(record.identity)
    revoked = why_revoked(around, record)
    return CertificateDocument(
        subject=identity.name,
        kind=identity.kind.value,
        identity=record.identity,
        state="revoked" if revoked else "valid",
        reason=revoked,
        serial=record.serial,
        issued_at=record.issued_at,
        not_after=record.not_after,
        how=record.how,
        renews_itself=identity.kind in (Kind.SERVER, Kind.SITE),
        fingerprint=record.fingerprint,
    )


def _finish(line: CertificateDocument, now: datetime) -> CertificateDocument:
    """With the days left, and with what they mean."""
    if line.not_after is None:
        return line
    end = line.not_after
    line = replace(line, days_left=round((end - now) / timedelta(days=1), 4))
    if line.state in ("revoked", "locked"):
        return line
    due = due_at(line)
    if end <= now:
        line = replace(line, state="expired")
        return replace(line, hint=_hint(line))
    if line.renews_itself and due is not None and due <= now:
        reason = "it renews itself at a third of its life, and has not"
        return replace(line, state="overdue", reason=reason, hint=_hint(line))
    return replace(line, hint="" if line.renews_itself else _hint(line))


def _hint(line: CertificateDocument) -> str:
    if line.kind == Kind.SITE.value and line.state == "expired":
        return f"flprov invite create {line.subject}, and at the site: flprov join INVITE"
    if line.kind == Kind.SITE.value:
        return f"flprov site show {line.subject}"
    if line.kind == Kind.SERVER.value:
        return f"flprov cert renew {line.subject}"
    return _HINTS.get(line.kind, "")
