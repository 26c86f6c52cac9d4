# SPDX-License-Identifier: Apache-2.0
"""Who belongs to the project: sites and people added, locked, removed; certificates listed and revoked."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from flprov._base import Clock, to_iso, write_atomic
from flprov.admin.link import Link
from flprov.errors import ProtocolError
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out

LISTS = frozenset({"servers", "sites", "people"})  # of which there are revocation lists

SITE_CHANGES: Mapping[str, m.Method] = {
    "add": m.ADD_SITE,
    "remove": m.REMOVE_SITE,
    "lock": m.LOCK_SITE,
    "unlock": m.UNLOCK_SITE,
}


def change_site(
    link: Link, clock: Clock, change: str, name: str, *, org: str = "", reason: str = ""
) -> doc.PartyChangeDocument:
    """Carry out one of SITE_CHANGES. Durable when this returns; open streams have been ended."""
    request = _party_change(clock, name, reason, org)
    return link.document(doc.PartyChangeDocument, SITE_CHANGES[change], request)


def list_people(link: Link) -> tuple[doc.PersonDocument, ...]:
    """Everybody whom the server knows."""
    return link.document(doc.PersonListDocument, m.LIST_PEOPLE, pb.Query()).people


def remove_person(link: Link, clock: Clock, name: str, *, reason: str = "") -> doc.PartyChangeDocument:
    """Revoke every certificate that a person of this name has had."""
    request = _party_change(clock, name, reason)
    return link.document(doc.PartyChangeDocument, m.REMOVE_PERSON, request)


def list_certificates(link: Link, *, every: bool = False) -> doc.CertificateListDocument:
    """What ends first comes first; `every`: also what was replaced."""
    return link.document(doc.CertificateListDocument, m.LIST_CERTIFICATES, pb.Query(all=every))


def revoke_certificate(
    link: Link, clock: Clock, target: str, *, reason: str = "", comment: str = ""
) -> doc.PartyChangeDocument:
    """Revoke what TARGET names: every certificate of a party, or one by its serial number."""
    request = pb.CertificateChange(
        target=target, reason=reason, comment=comment, key=secrets.token_hex(8), not_after=_not_after(clock)
    )
    return link.document(doc.PartyChangeDocument, m.REVOKE_CERTIFICATE, request)


def export_crls(link: Link) -> tuple[doc.CRLDocument, ...]:
    """The revocation lists of now."""
    return link.document(doc.CRLListDocument, m.EXPORT_CRLS, pb.Query()).lists


def write_crls(lists: tuple[doc.CRLDocument, ...], folder: Path) -> list[Path]:
    """Write each list that there is to `folder`/NAME.crl.pem, over older ones.

    Raises:
        ProtocolError: the server names a list as none is named; it does not choose where files go.
    """
    if not {found.name for found in lists} <= LISTS:
        raise ProtocolError("the server sent a revocation list of something that has none")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for found in lists:
        path = folder / f"{found.name}.crl.pem"
        if found.pem:
            write_atomic(path, found.pem.encode())
            written.append(path)
    return written


def _party_change(clock: Clock, name: str, reason: str, org: str = "") -> pb.PartyChange:
    return pb.PartyChange(
        name=name, org=org, reason=reason, key=secrets.token_hex(8), not_after=_not_after(clock)
    )


def _not_after(clock: Clock) -> str:
    return to_iso(clock.now() + _LIFE)
