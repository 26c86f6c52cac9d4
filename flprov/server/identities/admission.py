# SPDX-License-Identifier: Apache-2.0
"""A key comes with an invite: whether it gets a certificate, and that no second one ever does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from flprov.errors import IdentityRefused, SiteLocked
from flprov.pki import Identity, Kind, Reason, describe_leaf, issued_at, key_fingerprint
from flprov.server.identities import book
from flprov.server.identities.invites import InviteBook, InviteRecord, InviteState, put
from flprov.server.identities.revocations import end_calls, withdraw_identity, withdraw_serial
from flprov.server.identities.surroundings import Surroundings
from flprov.store import Change, Row


class Admission:
    """Lets in the first key that comes with an invite. Whoever calls sees to it that one call ends before
    the next begins, and that none is cut short: a commit goes on when its caller is gone."""

    def __init__(
        self, around: Surroundings, invites: InviteBook, changed: Callable[[InviteRecord], None]
    ) -> None:
        self._around = around
        self._book = invites
        self._changed = changed

    async def use(
        self, caller: Identity, public_pem: bytes, serial: str | None, approved_by: str
    ) -> InviteRecord:
        """As `Invitations.use`."""
        await self._around.settled()  # so that what it brings to an end is in the book
        record = self._verify_usable(caller, serial)
        mark = key_fingerprint(public_pem)
        if record.fingerprint not in ("", mark):
            raise _other_key(record)
        if record.chain:
            self._verify_still_good(record)
            return record
        self._verify_still_meant(record)
        if record.approval and record.approved_at is None and not approved_by:
            return record if record.fingerprint else await self._bind(record, caller, mark)
        return await self._issue(record, caller, public_pem, approved_by)

    def _verify_usable(self, caller: Identity, serial: str | None) -> InviteRecord:
        """The gate looked at the site when the call began; while it waited, much may have changed."""
        self._around.registry.verify_enrolled(caller)
        record = self._book.get(caller.invite)
        if record is None or (record.site, record.org) != (caller.name, caller.org):
            raise IdentityRefused(f"this server knows no invite {caller.invite}", hint=_another(caller.name))
        leaf = describe_leaf(record.certificate.encode())
        if serial is not None and serial != f"{leaf.serial:x}":
            raise IdentityRefused(f"that is not the certificate of invite {record.id}")
        self._around.registry.revocations.verify_not_revoked(caller, leaf)
        if record.revoked_at is not None:
            why = f": {record.reason}" if record.reason else ""
            raise IdentityRefused(
                f"invite {record.id} was taken back on {record.revoked_at:%Y-%m-%d %H:%M:%S} UTC{why}",
                hint=_another(record.site),
            )
        if self._around.clock.now() > record.not_after:
            used = f"; it was used on {record.used_at:%Y-%m-%d %H:%M:%S} UTC" if record.used_at else ""
            raise IdentityRefused(
                f"invite {record.id} expired on {record.not_after:%Y-%m-%d %H:%M:%S} UTC{used}",
                hint=_another(record.site),
            )
        return record

    def _verify_still_good(self, record: InviteRecord) -> None:
        """The certificate that this invite brought, for whoever asks again."""
        site = self._site(record)
        found = self._around.registry.revocations.find(
            site.uri, record.serial, issued_at(record.chain.encode())
        )
        if found is not None:
            raise IdentityRefused(
                f"invite {record.id} was used, and the certificate that it brought was revoked"
                f" on {found.at:%Y-%m-%d %H:%M:%S} UTC",
                hint=_another(record.site),
            )

    def _verify_still_meant(self, record: InviteRecord) -> None:
        """Whoever steals an admin's kit could make invites for the time after that is noticed."""
        decisions = [("made", record.created_by, record.created_with, record.created_at)]
        if record.approved_at is not None:
            decisions.append(("approved", record.approved_by, record.approved_with, record.approved_at))
        for what, by, serial, at in decisions:
            if self._is_withdrawn(by, serial, at):
                raise IdentityRefused(
                    f"invite {record.id} was {what} by {by.rpartition('/')[2]}, whose certificate was revoked"
                    " since",
                    hint=_another(record.site),
                )

    def _is_withdrawn(self, person: str, serial: str, at: datetime) -> bool:
        """Whether the certificate with which somebody decided this then was revoked later."""
        revocations, trust = self._around.registry.revocations, self._around.trust.current
        cutoff = revocations.cutoff(person)
        if cutoff is not None and at <= cutoff.at:
            return True
        return bool(serial) and (revocations.is_revoked(serial) or int(serial, 16) in trust.revoked_people)

    def _site(self, record: InviteRecord) -> Identity:
        domain = self._around.kit.trust_domain
        return Identity(trust_domain=domain, kind=Kind.SITE, org=record.org, name=record.site)

    async def _bind(self, record: InviteRecord, caller: Identity, mark: str) -> InviteRecord:
        """The first key that comes is the only one, also while it waits."""
        bound = replace(record, fingerprint=mark, came_at=self._around.clock.now())
        row = Row(
            who=caller.uri,
            what="invite.use",
            object=record.site,
            outcome=InviteState.WAITING.value,
            data={"invite": record.id, "fingerprint": mark},
        )
        await self._around.store.commit([put(bound)], row)
        self._changed(bound)
        return bound

    async def _issue(
        self, record: InviteRecord, caller: Identity, public_pem: bytes, approved_by: str
    ) -> InviteRecord:
        """The certificate, and the end of all older ones, in the commit that marks the invite used."""
        around, site, now = self._around, self._site(record), self._around.clock.now()
        withdrawal = withdraw_identity(  # before issuing, so that the new certificate is none of those
            around,
            site.uri,
            reason=Reason.SUPERSEDED,
            by=record.created_by,
            comment=f"the site joined again with invite {record.id}",
        )
        issued = around.issuer.issue(site, around.trust.current, public_pem=public_pem)
        certificate = book.describe(describe_leaf(issued.certificate_pem), "join")
        mark = key_fingerprint(public_pem)
        used = replace(
            record,
            fingerprint=mark,
            came_at=record.came_at or now,
            approved_at=record.approved_at or (now if record.approval else None),
            approved_by=record.approved_by or (approved_by if record.approval else ""),
            used_at=now,
            serial=certificate.serial,
            chain=issued.chain_pem.decode(),
        )
        row = Row(
            who=caller.uri,
            what="site.join",
            object=record.site,
            data={"invite": record.id, "fingerprint": mark, "serial": certificate.serial}
            | ({"by": approved_by} if approved_by else {}),
        )
        expired = around.book.expired(site.uri, now)
        changes: list[Change] = [*withdrawal.changes, put(used), book.put(certificate)]
        await around.store.commit([*changes, *map(book.delete, expired)], row)
        around.registry.revocations.add(withdrawal)
        end_calls(around, withdrawal)
        self._changed(used)
        strays = [stray for stray in around.book.valid(site.uri, now) if not self._is_revoked(stray)]
        around.book.remove(expired)
        around.book.add(certificate)
        await self._withdraw(strays, used)
        await self._verify_still_enrolled(site, certificate, used)
        return used

    async def _verify_still_enrolled(
        self, site: Identity, certificate: book.CertificateRecord, record: InviteRecord
    ) -> None:
        """A site that was removed while the join was being written gets nothing, now or later."""
        try:
            self._around.registry.verify_enrolled(site)
        except SiteLocked:
            raise  # the same key gets the same certificate once it is unlocked
        except IdentityRefused:
            await self._withdraw([certificate], record)
            raise

    def _is_revoked(self, stray: book.CertificateRecord) -> bool:
        revocations = self._around.registry.revocations
        return revocations.find(stray.identity, stray.serial, stray.issued_at) is not None

    async def _withdraw(self, certificates: list[book.CertificateRecord], record: InviteRecord) -> None:
        """Revoke what nobody meant to give: also a renewal that was answered while a join was written."""
        around = self._around
        found = [
            withdraw_serial(around, one, reason=Reason.SUPERSEDED, by=record.created_by)
            for one in certificates
        ]
        if found:
            changes = [change for withdrawal in found for change in withdrawal.changes]
            await around.store.commit(changes, None, urgent=True)
            for withdrawal in found:
                around.registry.revocations.add(withdrawal)


def _other_key(record: InviteRecord) -> IdentityRefused:
    when = record.used_at or record.came_at
    what = "was used" if record.used_at else "is held"
    return IdentityRefused(
        f"invite {record.id} {what} on {when:%Y-%m-%d %H:%M:%S} UTC by another key,"
        f" fingerprint {record.fingerprint}",
        hint=f"if that was not you, tell the project's admin at once: flprov cert revoke {record.site};"
        f" {_another(record.site)}",
    )


def _another(site: str) -> str:
    return f"ask the project's admin for another invite: flprov invite create {site}"
