# SPDX-License-Identifier: Apache-2.0
"""What happens to invites. One change at a time, each on the disk with its row before anybody hears of it."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from datetime import timedelta

from flprov.errors import Conflict, IdentityRefused, Misuse, NotFound, Refused
from flprov.pki import Identity, Kind, describe_leaf
from flprov.server.access import verify_may_take_name
from flprov.server.commands import used_for_another
from flprov.server.identities.admission import Admission
from flprov.server.identities.invites import InviteBook, InviteRecord, InviteState, delete, put
from flprov.server.identities.people import find_people
from flprov.server.identities.surroundings import Surroundings
from flprov.server.identities.turns import Turns
from flprov.server.records import Enrolment, Mark
from flprov.server.registry import put_enrolment
from flprov.store import Change, Row
from flprov.wire import documents as doc

SHORTEST, LONGEST = timedelta(minutes=1), timedelta(days=30)


class Invitations:
    """Every invite of the project, and all that can become of one."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._turns = Turns()
        self.book = InviteBook(around.store)
        self._admission = Admission(around, self.book, self._changed)
        self.changed = asyncio.Event()  # set at the next change of any invite, and then replaced

    def load(self) -> None:
        """Read what was remembered."""
        self.book.load()

    async def wait(self, changed: asyncio.Event, record: InviteRecord) -> None:
        """Until an invite changes, or this one expires."""
        left = (record.not_after - self._around.clock.now()).total_seconds()
        waits = [
            asyncio.ensure_future(changed.wait()),
            asyncio.ensure_future(self._around.clock.sleep(max(0.0, left) + 0.001)),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()

    # ---- creating ------------------------------------------------------------------------------

    async def create(
        self,
        by: Identity,
        *,
        site: str,
        org: str,
        seconds: float,
        approval: bool,
        public_pem: bytes,
        command: str,
        serial: str = "",
    ) -> doc.InviteIssueDocument:
        """A new invite for a site; its older ones that can still be used are revoked.

        Args:
            by: whose right to do so was checked.
            site: whom it is for.
            org: of the site; when given, the site is added if the project does not have it.
            seconds: how long it can be used.
            approval: whether an admin must approve the key that comes.
            public_pem: the invite's own key, made by who creates it.
            command: the same again gives the same invite.
            serial: of the certificate with which `by` came, hex; empty on a transport without any.

        Raises:
            NotFound: no such site, and no organisation was given.
            Conflict: the site is another organisation's, or locked.
            Misuse: no time that an invite can last.
        """
        life = _verify_life(seconds)
        return await self._turns.take(
            self._create(by, site, org, life, approval, public_pem, command, serial)
        )

    async def _create(
        self,
        by: Identity,
        site: str,
        org: str,
        life: timedelta,
        approval: bool,
        public_pem: bytes,
        command: str,
        serial: str,
    ) -> doc.InviteIssueDocument:
        around, now = self._around, self._around.clock.now()
        for known in self.book:
            if command and (known.created_by, known.command) == (by.uri, command):
                if known.site != site:
                    raise used_for_another()
                return doc.InviteIssueDocument(invite=known.describe(now), certificate=known.certificate)
        added = self._find_or_add(by, site, org)
        org = added.org if added else around.registry.find(site).org
        identity = Identity(
            trust_domain=by.trust_domain, kind=Kind.INVITE, org=org, name=site, invite=secrets.token_hex(8)
        )
        days = life / timedelta(days=1)
        issued = around.issuer.issue(identity, around.trust.current, days=days, public_pem=public_pem)
        leaf = describe_leaf(issued.certificate_pem)
        record = InviteRecord(
            id=identity.invite,
            site=site,
            org=org,
            approval=approval,
            created_at=now,
            created_by=by.uri,
            command=command,
            created_with=serial,
            not_after=leaf.not_after,
            certificate=issued.certificate_pem.decode(),
        )
        replaced = [
            replace(old, revoked_at=now, revoked_by=by.uri, reason=f"replaced by invite {record.id}")
            for old in self.book.undecided(site, now)
        ]
        gone = self.book.forgotten(now, site)
        changes: list[Change] = [put(record), *map(put, replaced), *map(delete, gone)]
        changes += [put_enrolment(added)] if added else []
        data = {"invite": record.id, "not_after": f"{record.not_after:%Y-%m-%dT%H:%M:%SZ}"}
        data |= {"replaces": ", ".join(old.id for old in replaced)} if replaced else {}
        await around.store.commit(changes, Row(who=by.uri, what="invite.create", object=site, data=data))
        if added:
            around.registry.enrol(added)
        self.book.remove(gone)
        self._changed(record, *replaced)
        return doc.InviteIssueDocument(
            invite=record.describe(now),
            certificate=record.certificate,
            site_added=added is not None,
            replaced=tuple(old.id for old in replaced),
        )

    def _find_or_add(self, by: Identity, site: str, org: str) -> Enrolment | None:
        """What adds the site to the project; None when it is there."""
        registry = self._around.registry
        known = registry.sites.get(site)
        if known is None and not org:
            raise NotFound(
                f"no site {site[:64]!r} in this project",
                hint=f"flprov invite create {site[:64]} --org ORG adds it; flprov site ls lists the others",
            )
        if known is not None and org and known.org != org:
            raise Conflict(f"site {site} belongs to {known.org}, not to {org}", hint="flprov site ls")
        lock = registry.enrolment(site).locked
        if lock is not None:
            raise Conflict(f"site {site} was locked {lock.said}", hint=f"first: flprov site unlock {site}")
        return None if known else self._enrolment(by, site, org)

    def _enrolment(self, by: Identity, site: str, org: str) -> Enrolment:
        around = self._around
        try:
            Identity(trust_domain=by.trust_domain, kind=Kind.SITE, org=org, name=site)
        except IdentityRefused as error:
            raise Misuse(str(error), hint=error.hint) from error
        before = around.registry.provisioned_org(site)
        if before not in (None, org):
            raise Conflict(f"site {site} belongs to {before}, not to {org}", hint=f"--org {before}")
        if site == around.kit.name or find_people(around, site):
            raise Conflict(f"{site} is the name of another party already", hint="choose another name")
        verify_may_take_name(by, site, org, around.registry.former_org(site))
        mark = Mark(by=by.uri, at=around.clock.now())
        return replace(around.registry.enrolment(site), org=org, added=mark, removed=None)

    # ---- using ---------------------------------------------------------------------------------

    async def use(
        self, caller: Identity, public_pem: bytes, *, serial: str | None, approved_by: str = ""
    ) -> InviteRecord:
        """The invite after this key came with it: with its certificate, or waiting for approval.

        Args:
            caller: who came: an identity of the kind INVITE.
            public_pem: the site's key; that the caller holds the private half was checked.
            serial: of the invite's certificate, hex; None on a transport without any.
            approved_by: who has compared the fingerprint already.

        Raises:
            IdentityRefused: the invite is unknown, expired, revoked, or was used by another key; or the
                site may not come in.
        """
        return await self._turns.take(self._admission.use(caller, public_pem, serial, approved_by))

    # ---- deciding ------------------------------------------------------------------------------

    async def approve(self, id_: str, by: Identity, fingerprint: str, serial: str = "") -> InviteRecord:
        """Let the key that came have its certificate.

        Raises:
            Refused: its fingerprint is another one.
            Conflict: no key has come, or the invite is over.
        """
        return await self._turns.take(self._approve(id_, by, fingerprint, serial))

    async def _approve(self, id_: str, by: Identity, fingerprint: str, serial: str) -> InviteRecord:
        record, now = self._get(id_), self._around.clock.now()
        state = record.state(now)
        if state is InviteState.OPEN:
            raise Conflict(
                f"nobody has come with invite {id_} yet, so there is nothing to approve",
                hint=f"at the hospital: flprov join INVITE; then: flprov invite approve {record.site}",
            )
        if state in (InviteState.EXPIRED, InviteState.REVOKED):
            raise Conflict(
                f"invite {id_} is {state.value}", hint=f"make another one: flprov invite create {record.site}"
            )
        if spell(fingerprint) != spell(record.fingerprint):
            raise Refused(
                f"the key that came with invite {id_} has another fingerprint: {record.fingerprint}",
                hint=f"if the hospital does not show that one, somebody else has used the invite:"
                f" flprov invite revoke {id_}",
            )
        if state is not InviteState.WAITING:
            return record
        approved = replace(record, approved_at=now, approved_by=by.uri, approved_with=serial)
        data = {"invite": id_, "fingerprint": record.fingerprint}
        row = Row(who=by.uri, what="invite.approve", object=record.site, data=data)
        await self._around.store.commit([put(approved)], row)
        self._changed(approved)
        return approved

    async def revoke(self, id_: str, by: Identity, reason: str) -> InviteRecord:
        """Take an invite back.

        Raises:
            Conflict: it was used.
        """
        return await self._turns.take(self._revoke(id_, by, reason))

    async def _revoke(self, id_: str, by: Identity, reason: str) -> InviteRecord:
        record, now = self._get(id_), self._around.clock.now()
        if record.chain:
            raise Conflict(
                f"invite {id_} was used on {record.used_at:%Y-%m-%d %H:%M:%S} UTC: it is too late",
                hint=f"if that was not the hospital: flprov cert revoke {record.site}",
            )
        if record.revoked_at is not None:
            return record
        revoked = replace(record, revoked_at=now, revoked_by=by.uri, reason=reason)
        row = Row(who=by.uri, what="invite.revoke", object=record.site, reason=reason, data={"invite": id_})
        await self._around.store.commit([put(revoked)], row, urgent=True)
        self._changed(revoked)
        return revoked

    def _get(self, id_: str) -> InviteRecord:
        record = self.book.get(id_)
        if record is None:
            raise NotFound(f"no invite {id_}", hint="flprov invite ls")
        return record

    def _changed(self, *records: InviteRecord) -> None:
        for record in records:
            self.book.add(record)
        self._around.changed()
        self.changed.set()
        self.changed = asyncio.Event()


def spell(fingerprint: str) -> str:
    """A fingerprint as people type it: with or without colons, blanks, and what stands before it."""
    digits = "".join(letter for letter in fingerprint.upper() if letter not in ": \t\n-")
    return digits.removeprefix("SHA256")


def _verify_life(seconds: float) -> timedelta:
    if not SHORTEST.total_seconds() <= seconds <= LONGEST.total_seconds():  # also what is no number
        raise Misuse("an invite lasts from a minute to 30 days", hint="--expires 24h")
    return timedelta(seconds=seconds)
