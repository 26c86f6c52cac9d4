# SPDX-License-Identifier: Apache-2.0
"""Invites as the server remembers them: each bound to the first key that came, with one certificate at most.

    open --a key comes--> used                            the certificate is issued at once
    open --a key comes--> waiting --approved--> used      an admin compares the fingerprint first
    open, waiting --> revoked | expired

An invite that was used gives the same certificate to the same key again, until it expires: an answer can
be lost on the way.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from flprov._base import from_document, to_document
from flprov.errors import NotFound
from flprov.pki import Identity, Kind
from flprov.store import Delete, Put, Store
from flprov.wire.documents import InviteDocument

KIND = "invite"
_KEPT = timedelta(days=90)  # how long what became of an invite can be looked up after its end
_MOST_ENDED = 20  # of one site that are remembered


class InviteState(enum.Enum):
    """What can be done with an invite now."""

    OPEN = "open"  # nobody has come with it
    WAITING = "waiting"  # a key has come, and an admin has to approve it
    APPROVED = "approved"  # an admin has; the site has not come back for its certificate
    USED = "used"  # its certificate was issued
    EXPIRED = "expired"  # its time is over
    REVOKED = "revoked"  # an admin took it back


@dataclass(frozen=True, kw_only=True)
class InviteRecord:
    """One invite."""

    id: str
    site: str
    org: str
    approval: bool
    created_at: datetime
    created_by: str  # a person's identity
    command: str  # the idempotency key of the command that made it
    not_after: datetime
    certificate: str  # of the invite, PEM
    fingerprint: str = ""  # of the first key that came with it
    came_at: datetime | None = None
    approved_at: datetime | None = None
    approved_by: str = ""
    used_at: datetime | None = None
    serial: str = ""  # of the certificate that was issued, hex
    chain: str = ""  # that certificate, with the CA that issued it, PEM
    revoked_at: datetime | None = None
    revoked_by: str = ""
    reason: str = ""
    created_with: str = ""  # serial number (hex) of the certificate with which `created_by` came
    approved_with: str = ""  # the same of `approved_by`

    def state(self, now: datetime) -> InviteState:
        """Where it stands."""
        if self.chain:
            return InviteState.USED
        if self.revoked_at is not None:
            return InviteState.REVOKED
        if now > self.not_after:
            return InviteState.EXPIRED
        if not self.fingerprint:
            return InviteState.OPEN
        return InviteState.APPROVED if self.approved_at or not self.approval else InviteState.WAITING

    def identity(self, trust_domain: str) -> Identity:
        """Who comes with it."""
        return Identity(
            trust_domain=trust_domain, kind=Kind.INVITE, org=self.org, name=self.site, invite=self.id
        )

    def describe(self, now: datetime) -> InviteDocument:
        """What people see of it."""
        return InviteDocument(
            id=self.id,
            site=self.site,
            org=self.org,
            state=self.state(now).value,
            approval=self.approval,
            created_at=self.created_at,
            created_by=self.created_by,
            not_after=self.not_after,
            fingerprint=self.fingerprint,
            came_at=self.came_at,
            approved_at=self.approved_at,
            approved_by=self.approved_by,
            used_at=self.used_at,
            serial=self.serial,
            revoked_at=self.revoked_at,
            revoked_by=self.revoked_by,
            reason=self.reason,
        )


UNDECIDED = frozenset({InviteState.OPEN, InviteState.WAITING, InviteState.APPROVED})


class InviteBook:
    """In memory, backed by the store; whoever changes it commits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: dict[str, InviteRecord] = {}

    def load(self) -> None:
        """Read what was remembered."""
        values = self._store.load(KIND)
        self._records = {id_: from_document(InviteRecord, value) for id_, value in values.items()}

    def __iter__(self) -> Iterator[InviteRecord]:
        return iter(tuple(self._records.values()))

    def get(self, id_: str) -> InviteRecord | None:
        """The invite with exactly this id."""
        return self._records.get(id_)

    def find(self, text: str, within: Iterable[InviteRecord], now: datetime) -> InviteRecord:
        """The invite that `text` names: its id, a prefix that only one has, or its site.

        Of several for one site it is the one that can still be used, or else the newest.

        Raises:
            NotFound: there is none among `within`, or several begin so.
        """
        records = tuple(within)
        exact = [record for record in records if record.id == text]
        if exact:  # before names: a site may be called like somebody else's invite
            return exact[0]
        of_site = [record for record in records if record.site == text]
        if of_site:
            return max(of_site, key=lambda record: (record.state(now) in UNDECIDED, record.created_at))
        found = [record for record in records if text and record.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} invites begin with" if found else "no invite with the id or for the site"
        raise NotFound(f"{what} {text[:64]!r}", hint="flprov invite ls")

    def undecided(self, site: str, now: datetime) -> tuple[InviteRecord, ...]:
        """A site's invites that can still be used."""
        return tuple(record for record in self if record.site == site and record.state(now) in UNDECIDED)

    def forgotten(self, now: datetime, site: str) -> tuple[InviteRecord, ...]:
        """Those that ended so long ago that nobody asks, and the oldest of `site` when it has had many."""
        ended = [record for record in self if record.site == site and record.state(now) not in UNDECIDED]
        ended.sort(key=lambda record: record.created_at, reverse=True)
        many = {record.id for record in ended[_MOST_ENDED:]}
        return tuple(record for record in self if record.id in many or record.not_after + _KEPT < now)

    def add(self, record: InviteRecord) -> None:
        """Remember in memory: after the commit of `put(record)`."""
        self._records[record.id] = record

    def remove(self, records: Iterable[InviteRecord]) -> None:
        """Forget in memory: after the commit of `delete(record)`."""
        for record in records:
            self._records.pop(record.id, None)


def put(record: InviteRecord) -> Put:
    """The change that keeps it."""
    return Put(KIND, record.id, to_document(record))


def delete(record: InviteRecord) -> Delete:
    """The change that forgets it."""
    return Delete(KIND, record.id)
