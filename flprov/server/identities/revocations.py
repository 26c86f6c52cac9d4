# SPDX-License-Identifier: Apache-2.0
"""Revoking: what to write down, what to act on, and whose open calls to end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from flprov.errors import FlprovError
from flprov.pki import Identity, Kind, Reason, parse_identity
from flprov.server.durable import commit_through
from flprov.server.identities.book import CertificateRecord
from flprov.server.identities.surroundings import Surroundings
from flprov.server.revocations import Cutoff, Revocation, RevokedSerial, Withdrawal, refusal
from flprov.store import Change, Row


def withdraw_identity(
    around: Surroundings,
    identity: str,
    *,
    reason: Reason,
    by: str,
    comment: str = "",
    keep: Collection[str] = (),
) -> Withdrawal:
    """Every certificate that this identity has until now. Nothing is changed yet.

    Args:
        around: the server's parts.
        identity: its URI.
        reason: why, for the lists and for whoever is refused.
        by: the URI of who decided.
        comment: in words.
        keep: serial numbers (hex) that go on to count: of a certificate that was issued just now.
    """
    now = around.clock.now()
    before, earlier = now.replace(microsecond=0), around.registry.revocations.cutoff(identity)
    if earlier is not None:  # should the clock have been set back: nobody comes in again by that
        before = max(before, earlier.before)
    cutoff = Cutoff(identity=identity, before=before, at=now, by=by, reason=reason, comment=comment)
    records = [record for record in around.book.valid(identity, now) if record.serial not in keep]
    return Withdrawal(cutoff=cutoff, serials=_serials(around, records, cutoff))


def withdraw_serial(
    around: Surroundings, record: CertificateRecord, *, reason: Reason, by: str, comment: str = ""
) -> Withdrawal:
    """This certificate alone. Nothing is changed yet."""
    why = Cutoff(
        identity=record.identity,
        before=record.issued_at,
        at=around.clock.now(),
        by=by,
        reason=reason,
        comment=comment,
    )
    return Withdrawal(serials=_serials(around, [record], why))


def _serials(
    around: Surroundings, records: Iterable[CertificateRecord], why: Cutoff
) -> tuple[RevokedSerial, ...]:
    """Those that were revoked before keep the reason and the time that they have."""
    known = {entry.serial for entry in around.registry.revocations.serials}
    return tuple(
        RevokedSerial(
            serial=record.serial,
            identity=record.identity,
            issuer_key_id=record.issuer_key_id,
            not_after=record.not_after,
            at=why.at,
            by=why.by,
            reason=why.reason,
            comment=why.comment,
        )
        for record in records
        if record.serial not in known
    )


async def revoke(
    around: Surroundings,
    withdrawals: Iterable[Withdrawal],
    row: Row,
    *,
    more: Iterable[Change] = (),
    then: Callable[[], None] | None = None,
    error: FlprovError | None = None,
) -> int:
    """Write it down, then refuse new calls and end open ones; how many were ended.

    Args:
        around: the server's parts.
        withdrawals: what is revoked.
        row: what the log says of it.
        more: changes of the same transaction.
        then: acts on those once they are written, before any call is ended.
        error: what the ended calls are told; by default, that and why the certificate was revoked.

    Raises:
        LocalError: it could not be written, and nothing has changed.
    """
    found = tuple(withdrawals)
    changes = [change for withdrawal in found for change in withdrawal.changes]
    await commit_through(around.store, [*changes, *more], row, urgent=True)
    for withdrawal in found:
        around.registry.revocations.add(withdrawal)
    if then is not None:
        then()
    # No await since the commit: nobody was let in or answered between acting on it and this.
    ended = sum(end_calls(around, withdrawal, error) for withdrawal in found)
    for withdrawal in found:
        await _catch_up(around, withdrawal)
    return ended


async def _catch_up(around: Surroundings, withdrawal: Withdrawal) -> None:
    """A renewal that was answered while the revocation was being written: that certificate goes, too."""
    cutoff = withdrawal.cutoff
    if cutoff is None:
        return
    handled = {entry.serial for entry in withdrawal.serials}
    missed = [
        record
        for record in around.book.valid(cutoff.identity, around.clock.now())
        if record.serial not in handled and cutoff.before <= record.issued_at
    ]
    later = Withdrawal(serials=_serials(around, missed, cutoff))
    if later.serials:
        await commit_through(around.store, later.changes, None, urgent=True)
        around.registry.revocations.add(later)


def end_calls(around: Surroundings, withdrawal: Withdrawal, error: FlprovError | None = None) -> int:
    """End the open calls of those whose certificates were revoked just now; how many."""
    revoked = [entry for entry in (withdrawal.cutoff, *withdrawal.serials) if entry is not None]
    reasons: dict[str, Revocation] = {entry.identity: entry for entry in reversed(revoked)}
    ended = 0
    for uri, why in reasons.items():
        identity = parse_identity(uri)
        ended += drop(around, identity, error or refusal(identity, why))
    return ended


def drop(around: Surroundings, identity: Identity, error: FlprovError) -> int:
    """End an identity's open calls for this reason; how many. A site's leaving is logged with it."""
    session = around.sessions.get(identity.name) if identity.kind is Kind.SITE else None
    if session is not None and session.identity == identity:
        session.closed_because = session.closed_because or str(error)
    return around.drop(identity.uri, error)
