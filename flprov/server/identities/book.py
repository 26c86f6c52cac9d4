# SPDX-License-Identifier: Apache-2.0
"""The certificates that the server knows of: those that it issued, and those with which somebody came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from flprov._base import from_document, to_document
from flprov.pki import Leaf
from flprov.store import Delete, Put, Store

KIND = "certificate"


@dataclass(frozen=True, kw_only=True)
class CertificateRecord:
    """One certificate."""

    serial: str  # hex
    identity: str
    issued_at: datetime
    not_before: datetime
    not_after: datetime
    issuer_key_id: str
    fingerprint: str
    how: str  # kit | join | renewal | invite: how it came to be, as far as the server knows

    def is_due(self, now: datetime) -> bool:
        """Whether a third of its life is over, when it is to be renewed."""
        return now >= self.issued_at + (self.not_after - self.issued_at) / 3


class CertificateBook:
    """In memory, backed by the store; whoever changes it commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[str, CertificateRecord] = {}
        self._of: dict[str, dict[str, CertificateRecord]] = {}  # by identity, then serial
        self._listeners: list[Callable[[], None]] = []

    def load(self) -> None:
        """Read what was remembered."""
        for value in self._store.load(KIND).values():
            self.add(from_document(CertificateRecord, value))

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener()` from now on, after each certificate that comes."""
        self._listeners.append(listener)

    def __iter__(self) -> Iterator[CertificateRecord]:
        return iter(tuple(self._records.values()))

    def knows(self, serial: str) -> bool:
        """Whether a certificate with this serial number (hex) is in the book."""
        return serial in self._records

    def of(self, identity: str) -> tuple[CertificateRecord, ...]:
        """All of one identity, the newest last."""
        found = self._of.get(identity, {}).values()
        return tuple(sorted(found, key=lambda record: record.issued_at))

    def add(self, record: CertificateRecord) -> None:
        """Remember in memory: after the commit of `put(record)`."""
        self._records[record.serial] = record
        self._of.setdefault(record.identity, {})[record.serial] = record
        for listener in self._listeners:
            listener()

    def remove(self, records: Iterable[CertificateRecord]) -> None:
        """Forget in memory: after the commit of `delete(record)`."""
        for record in records:
            self._records.pop(record.serial, None)
            self._of.get(record.identity, {}).pop(record.serial, None)

    def valid(self, identity: str, now: datetime) -> tuple[CertificateRecord, ...]:
        """Those of one identity that have not expired, the newest last."""
        return tuple(record for record in self.of(identity) if record.not_after > now)

    def expired(self, identity: str, now: datetime) -> tuple[CertificateRecord, ...]:
        """Those of one identity that have: they go when it gets a newer one."""
        return tuple(record for record in self.of(identity) if record.not_after <= now)


def describe(leaf: Leaf, how: str) -> CertificateRecord:
    """The record of a certificate."""
    return CertificateRecord(
        serial=f"{leaf.serial:x}",
        identity=leaf.identity.uri,
        issued_at=leaf.issued_at,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        issuer_key_id=leaf.issuer_key_id,
        fingerprint=leaf.fingerprint,
        how=how,
    )


def put(record: CertificateRecord) -> Put:
    """The change that keeps it."""
    return Put(KIND, record.serial, to_document(record))


def delete(record: CertificateRecord) -> Delete:
    """The change that forgets it."""
    return Delete(KIND, record.serial)
