# SPDX-License-Identifier: Apache-2.0
"""What was revoked: per identity a moment before which its certificates count no more, and serial numbers.

The moment catches certificates that this server has never seen, such as those in kits. The serial numbers
stand on the lists that are exported (RFC 5280 knows nothing else). Both outlive restarts. How they come
about is in identities/withdrawing.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from flprov._base import from_document, to_document
from flprov.errors import IdentityRefused
from flprov.pki import Identity, Kind, Leaf, Reason
from flprov.store import Put, Store

CUTOFF = "cutoff"
SERIAL = "revoked"

T = TypeVar("T")

WORDS = {
    Reason.UNSPECIFIED: "no reason was given",
    Reason.KEY_COMPROMISE: "somebody else may have its key",
    Reason.AFFILIATION_CHANGED: "its holder works for somebody else now",
    Reason.SUPERSEDED: "a newer one has taken its place",
    Reason.CESSATION_OF_OPERATION: "its holder has left",
    Reason.PRIVILEGE_WITHDRAWN: "its holder may take part no more",
}


@dataclass(frozen=True, kw_only=True)
class Cutoff:
    """Certificates of this identity that were issued before `before` are refused."""

    identity: str
    before: datetime  # in whole seconds, as the times in certificates
    at: datetime
    by: str
    reason: Reason = Reason.UNSPECIFIED
    comment: str = ""

    @property
    def said(self) -> str:
        """When, by whom and why."""
        return _say(self.at, self.by, self.reason, self.comment)


@dataclass(frozen=True, kw_only=True)
class RevokedSerial:
    """One certificate that is refused."""

    serial: str  # hex
    identity: str
    issuer_key_id: str
    not_after: datetime
    at: datetime
    by: str
    reason: Reason = Reason.UNSPECIFIED
    comment: str = ""

    @property
    def said(self) -> str:
        """When, by whom and why."""
        return _say(self.at, self.by, self.reason, self.comment)


def _say(at: datetime, by: str, reason: Reason, comment: str) -> str:
    """`on 2026-01-31 12:00:00 UTC by ada: somebody else may have its key (laptop stolen)`."""
    more = f" ({comment})" if comment else ""
    return f"on {at:%Y-%m-%d %H:%M:%S} UTC by {by.rpartition('/')[2]}: {WORDS[reason]}{more}"


Revocation = Cutoff | RevokedSerial


@dataclass(frozen=True, kw_only=True)
class Withdrawal:
    """Revocations that are to be committed together: put `changes`, then `Revocations.add`."""

    cutoff: Cutoff | None = None
    serials: tuple[RevokedSerial, ...] = ()

    @property
    def changes(self) -> list[Put]:
        """What to commit."""
        cutoffs = [Put(CUTOFF, self.cutoff.identity, to_document(self.cutoff))] if self.cutoff else []
        return [*cutoffs, *(Put(SERIAL, entry.serial, to_document(entry)) for entry in self.serials)]


class Revocations:
    """In memory, backed by the store; whoever changes it commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cutoffs: dict[str, Cutoff] = {}
        self._serials: dict[str, RevokedSerial] = {}

    def load(self) -> None:
        """Read what was revoked."""
        self._cutoffs = self._read(CUTOFF, Cutoff)
        self._serials = self._read(SERIAL, RevokedSerial)

    def _read(self, kind: str, record: type[T]) -> dict[str, T]:
        return {key: from_document(record, value) for key, value in self._store.load(kind).items()}

    @property
    def serials(self) -> tuple[RevokedSerial, ...]:
        """Every certificate that was revoked by its number."""
        return tuple(self._serials.values())

    @property
    def cutoffs(self) -> tuple[Cutoff, ...]:
        """The moment of each identity that has one."""
        return tuple(self._cutoffs.values())

    def cutoff(self, identity: str) -> Cutoff | None:
        """The moment before which this identity's certificates are refused."""
        return self._cutoffs.get(identity)

    def is_revoked(self, serial: str) -> bool:
        """Whether this certificate (hex) was revoked by its number."""
        return serial in self._serials

    def find(self, identity: str, serial: str, issued_at: datetime) -> Revocation | None:
        """Why this certificate is refused; None when it is not."""
        if serial in self._serials:
            return self._serials[serial]
        cutoff = self._cutoffs.get(identity)
        return cutoff if cutoff is not None and issued_at < cutoff.before else None

    def add(self, withdrawal: Withdrawal) -> None:
        """Act on it from now on: after the commit of its changes."""
        if withdrawal.cutoff is not None:
            self._cutoffs[withdrawal.cutoff.identity] = withdrawal.cutoff
        self._serials |= {entry.serial: entry for entry in withdrawal.serials}

    def verify_not_revoked(self, caller: Identity, leaf: Leaf) -> None:
        """Nothing, if this certificate still counts.

        Raises:
            IdentityRefused: it was revoked; the message is for whoever holds it.
        """
        found = self.find(caller.uri, f"{leaf.serial:x}", leaf.issued_at)
        if found is not None:
            raise refusal(caller, found)


def refusal(identity: Identity, why: Revocation) -> IdentityRefused:
    """What the holder of a revoked certificate reads: why, since when, and the way back."""
    return IdentityRefused(
        f"the certificate of {identity.kind.value} {identity.name} was revoked {why.said}",
        hint=_way_back(identity),
    )


def _way_back(identity: Identity) -> str:
    if identity.kind is Kind.PERSON:
        return "ask whoever provisions this project for a new kit"
    joining = ", then: flprov join INVITE" if identity.kind is Kind.SITE else ""
    return f"ask an admin for a new invite (flprov invite create {identity.name}){joining}"
