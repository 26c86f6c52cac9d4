# SPDX-License-Identifier: Apache-2.0
"""Sites and people: added, locked, removed; their certificates listed and revoked.

Each change is on disk, with its row, before it is acknowledged; then open calls are ended. Nothing here
needs a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from flprov.errors import NotFound, PermissionRefused
from flprov.pki import Identity, Kind, Reason, Role
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.access import verify_may_manage
from flprov.server.foreign import foreign_line
from flprov.server.identities.certificates import list_certificates
from flprov.server.identities.changes import LONGEST_REASON, change_row, changed, document
from flprov.server.identities.crls import export_crls
from flprov.server.identities.people import find_people, known_people, person_document, verify_admin_remains
from flprov.server.identities.revocations import revoke, withdraw_identity, withdraw_serial
from flprov.server.identities.sitechanges import SiteChanges, withdraw_site
from flprov.server.identities.surroundings import Surroundings
from flprov.server.identities.targets import Target, find_target, parse_reason
from flprov.server.revocations import Withdrawal
from flprov.store import Change
from flprov.wire import Message, pb
from flprov.wire import documents as doc

UnaryHandler = Callable[[Call, Any], Awaitable[Message]]


class PartyService:
    """Sites and people: added, locked, removed; their certificates listed and revoked."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._sites = SiteChanges(around)
        self._changing = asyncio.Lock()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.ADD_SITE: self.alone(self._sites.add_site),
            m.REMOVE_SITE: self.alone(self._sites.remove_site),
            m.LOCK_SITE: self.alone(self._sites.lock_site),
            m.UNLOCK_SITE: self.alone(self._sites.unlock_site),
            m.LIST_PEOPLE: self.list_people,
            m.REMOVE_PERSON: self.alone(self.remove_person),
            m.LIST_CERTIFICATES: self.list_certificates,
            m.REVOKE_CERTIFICATE: self.alone(self.revoke_certificate),
            m.EXPORT_CRLS: self.alone(self.export_crls),  # no two lists with one number
        }

    def alone(self, change: UnaryHandler) -> UnaryHandler:
        """One change at a time: two that look at the same state could undo each other's checks.

        Two project_admins who revoke each other at once, say: only the first may.
        """

        async def handle(call: Call, request: Message) -> Message:
            async with self._changing:
                self._around.registry.verify_enrolled(call.caller, call.leaf)  # it may have waited
                return await change(call, request)

        return handle

    # ---- people and certificates ---------------------------------------------------------

    async def list_people(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Everybody whom the server knows."""
        around = self._around
        await around.settled()
        people = [
            person_document(around, known, around.last_seen.get(uri))
            for uri, known in known_people(around).items()
        ]
        people.sort(key=lambda person: (person.name, person.identity))
        return document(doc.PersonListDocument(people=tuple(people)))

    async def remove_person(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A person has left: whatever roles this name has had, none counts any more."""
        await self._around.settled()
        found = find_people(self._around, request.name)
        if not found:
            raise NotFound(
                f"nobody of the name {request.name[:64]!r} is known here",
                hint="flprov user ls; who has never called, and came after the server's kit was made, is"
                " not known: take the person out of project.yml and provision",
            )
        target = Target(name=request.name, kind=Kind.PERSON, identities=tuple(found))
        change = pb.CertificateChange(
            target=request.name,
            comment=request.reason,
            key=request.key,
            not_after=request.not_after,
        )
        return await self._revoke(call, change, target, Reason.CESSATION_OF_OPERATION, "user.remove")

    async def list_certificates(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Every certificate that matters now; with `all`, also those that were replaced."""
        await self._around.settled()
        now = self._around.clock.now()
        found = list_certificates(self._around, now, every=request.all)
        return document(doc.CertificateListDocument(certificates=found, at=now))

    async def revoke_certificate(self, call: Call, request: pb.CertificateChange) -> pb.Document:
        """Every certificate of a party, or one by its serial number."""
        reason = parse_reason(request.reason)
        await self._around.settled()
        target = find_target(self._around, request.target)
        return await self._revoke(call, request, target, reason, "cert.revoke")

    async def export_crls(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """What was revoked, signed, in the form that other software reads."""
        return document(doc.CRLListDocument(lists=await export_crls(self._around)))

    async def _revoke(
        self, call: Call, request: pb.CertificateChange, target: Target, reason: Reason, what: str
    ) -> pb.Document:
        around = self._around
        for identity in target.identities:
            _verify_may_revoke(call.caller, identity)
        about = f"{target.identities[0].uri} {target.name}"
        command = around.commands.verify_fresh(call, request, about)
        comment = foreign_line(request.comment, LONGEST_REASON)
        withdrawals = self._plan(target, reason, call.caller.uri, comment)
        verify_admin_remains(around, withdrawals)
        change = "removed" if what == "user.remove" else "revoked"
        if command is None or not withdrawals:
            return changed(target.identities[0], change, done=False, notes=(_already(around, target),))
        more: list[Change] = around.commands.changes(command)
        row = change_row(call, what, target.name, comment, cause=reason.value)
        ended = await revoke(around, withdrawals, row, more=more)
        around.commands.add(command)
        notes = _notes(call.caller, target)
        return changed(
            target.identities[0], change, reason=comment, withdrawals=withdrawals, ended=ended, notes=notes
        )

    def _plan(self, target: Target, reason: Reason, by: str, comment: str) -> list[Withdrawal]:
        if target.record is not None:
            found = withdraw_serial(self._around, target.record, reason=reason, by=by, comment=comment)
            return [found] if found.serials else []
        if target.kind is Kind.SITE:
            site = target.identities[0]
            return withdraw_site(self._around, site, reason=reason, by=by, comment=comment)
        return [
            withdraw_identity(
                self._around, identity.uri, reason=reason, by=by, comment=comment or self._said(identity)
            )
            for identity in target.identities
        ]

    def _said(self, identity: Identity) -> str:
        """What was said when this identity was revoked before: a repetition does not forget it."""
        earlier = self._around.registry.revocations.cutoff(identity.uri)
        return earlier.comment if earlier else ""


def _verify_may_revoke(caller: Identity, identity: Identity) -> None:
    verify_may_manage(caller, identity.org)
    if identity.role is Role.PROJECT_ADMIN and caller.role is not Role.PROJECT_ADMIN:
        raise PermissionRefused(
            f"{identity.name} is a project_admin, and only a project_admin may revoke that certificate"
        )


def _already(around: Surroundings, target: Target) -> str:
    found = target.record and around.registry.revocations.find(
        target.record.identity, target.record.serial, target.record.issued_at
    )
    return f"it was revoked {found.said}" if found else ""


def _notes(caller: Identity, target: Target) -> tuple[str, ...]:
    """What else is to be done."""
    notes: list[str] = []
    name = target.name if target.record is None else target.identities[0].name
    if target.kind is Kind.SITE:
        notes.append(
            f"the way back for {name}: flprov invite create {name}, and at the site: flprov join INVITE"
        )
    if target.kind is Kind.PERSON:
        notes.append(
            f"take {name} out of project.yml, or the next `flprov provision` makes a new kit, which counts"
        )
        notes.append(
            "sites go on accepting submissions that were signed before, until they have the new people CRL:"
            " `flprov provision` and `flprov ca publish`, where the project is provisioned"
        )
    if caller in target.identities:
        notes.append("this was your own certificate: your next command needs another kit")
    return tuple(notes)
