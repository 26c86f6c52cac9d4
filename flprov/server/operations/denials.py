# SPDX-License-Identifier: Apache-2.0
"""Who is kept out, taken over from the state that a restore replaces: it is newer than the backup.

Only what refuses is taken over, so that a restore opens no door that was shut: revoked certificates, also
those of people on the provisioner's list, sites that were locked or removed, invites that were used or taken
back. What lets somebody in is left to admins.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from flprov._base import to_document
from flprov.kits import Kit
from flprov.server.identities.invites import KIND as INVITE
from flprov.server.identities.trust import TrustKeeper
from flprov.server.registry import ENROLMENT
from flprov.server.revocations import CUTOFF, SERIAL, RevokedSerial
from flprov.store import Put, Store

_MARKS = ("locked", "removed")


def find_denials(store: Store) -> Iterator[Put]:
    """The records of a state that keep somebody out."""
    for kind in (CUTOFF, SERIAL):
        for id_, value in store.load(kind).items():
            yield Put(kind, id_, value)
    for id_, value in store.load(INVITE).items():
        if value.get("chain") or value.get("revoked_at"):
            yield Put(INVITE, id_, value)
    for id_, value in store.load(ENROLMENT).items():
        if any(value.get(mark) for mark in _MARKS):
            yield Put(ENROLMENT, id_, value)


def find_listed(kit: Kit, state: Path, now: datetime) -> Iterator[Put]:
    """The people whom the trust bundle of a state lists as revoked: that of the backup may be older.

    Raises:
        StateDamaged: the bundle is not what a provisioner signed.
    """
    keeper = TrustKeeper(kit, state)
    keeper.load(now)
    for crl in keeper.current.people_crls:
        for serial, revoked in crl.revoked.items():
            entry = RevokedSerial(
                serial=f"{serial:x}",
                identity="",  # the list does not name them, nor say until when their certificates would last:
                issuer_key_id="",
                not_after=revoked.at,  # so they are on no list of ours
                at=revoked.at,
                by="the provisioner",
                reason=revoked.reason,
            )
            yield Put(SERIAL, entry.serial, to_document(entry))


def keep_denial(store: Store, denial: Put) -> Put:
    """The change that keeps it in a restored state; of a site, its marks beside what is known there."""
    known = store.get(denial.kind, denial.id)
    if denial.kind != ENROLMENT or known is None:
        return denial
    marks = {mark: denial.value[mark] for mark in _MARKS if denial.value.get(mark)}
    return Put(denial.kind, denial.id, known | marks)
