# SPDX-License-Identifier: Apache-2.0
"""Revocation lists for other software: those of the server's own CAs, and the provisioner's one of people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from flprov.pki import Authority, Revoked, authority_key_id, create_crl
from flprov.server.identities.surroundings import Surroundings
from flprov.store import Put, Row
from flprov.wire.documents import CRLDocument

NUMBER = "crl"
_DAYS = 7.0  # until nextUpdate
_AFTER = timedelta(days=_DAYS)  # RFC 5280 section 3.3: an entry stays on one list after its certificate's end


async def export_crls(around: Surroundings) -> tuple[CRLDocument, ...]:
    """The lists of now, each with a number that no list of its CA had before.

    Raises:
        LocalError: the number could not be written down, and nothing was signed.
    """
    now, says = around.clock.now(), around.trust.current.says
    own = {"servers": _keys(around, says.servers), "sites": _keys(around, says.sites)}
    key_ids = [authority_key_id(ca.certificate_pem) for cas in own.values() for ca in cas]
    numbers = {key_id: _last_number(around, key_id) + 1 for key_id in key_ids}
    changes = [Put(NUMBER, key_id, {"number": number}) for key_id, number in numbers.items()]
    await around.store.commit(changes, Row(who="server", what="crl.sign", object="servers, sites"))
    signed = [_sign(around, name, cas, numbers, now) for name, cas in own.items()]
    return (*signed, _people(around))


def _keys(around: Surroundings, texts: Sequence[str]) -> list[Authority]:
    """Those CAs that this server can sign with; the one that issues now first."""
    trusted = [authority_key_id(text.encode()) for text in texts]
    return [around.issuer.held(key_id) for key_id in trusted if around.issuer.has(key_id)]


def _last_number(around: Surroundings, key_id: str) -> int:
    stored = around.store.get(NUMBER, key_id)
    return int(stored["number"]) if stored else 0


def _sign(
    around: Surroundings, name: str, cas: Sequence[Authority], numbers: dict[str, int], now: datetime
) -> CRLDocument:
    lists, entries = [], 0
    for ca in cas:
        key_id = authority_key_id(ca.certificate_pem)
        revoked = [
            Revoked(serial=int(entry.serial, 16), at=entry.at, reason=entry.reason)
            for entry in around.registry.revocations.serials
            if entry.issuer_key_id == key_id and entry.not_after + _AFTER > now
        ]
        entries += len(revoked)
        lists.append(create_crl(ca, revoked, number=numbers[key_id], now=now, days=_DAYS))
    update = now + timedelta(days=_DAYS) if lists else None
    return CRLDocument(name=name, pem=b"".join(lists).decode(), revoked=entries, next_update=update)


def _people(around: Surroundings) -> CRLDocument:
    trust = around.trust.current
    if not trust.says.people_crl:
        return CRLDocument(name="people", pem="", revoked=0, next_update=None)
    found = trust.people_crls  # several while the CA is rotated
    return CRLDocument(
        name="people",
        pem=trust.says.people_crl,
        revoked=sum(len(crl.revoked) for crl in found),
        next_update=min(crl.next_update for crl in found),
    )
