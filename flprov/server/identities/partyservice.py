# SPDX-License-Identifier: Apache-2.0
"""Sites and people: added, locked, removed; their certificates listed and revoked.

Each change is on disk, with its row, before it is acknowledged; then open calls are ended. Nothing here
needs a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flprov._base import canonical_json
from flprov.errors import Conflict, IdentityRefused, Misuse, NotFound, PermissionRefused
from flprov.pki import Identity, Kind, Reason, Role, parse_identity
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.access import verify_may_manage
from flprov.server.foreign import foreign_line
from flprov.server.identities.certificates import list_certificates, undecided_invites
from flprov.server.identities.crls import export_crls
from flprov.server.identities.people import find_people, known_people, person_document, verify_admin_remains
from flprov.server.identities.revocations import drop, revoke, withdraw_identity, withdraw_serial
from flprov.server.identities.surroundings import Surroundings
from flprov.server.identities.targets import Target, find_target, parse_reason
from flprov.server.records import Mark
from flprov.server.registry import locked, put_enrolment, removal
from flprov.server.revocations import Withdrawal
from flprov.store import Change, Row
from flprov.wire import documents as doc
from flprov.wire import pb

_LONGEST_REASON = 200


class PartyService:
    """Sites and people: added, locked, removed; their certificates listed and revoked."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.ADD_SITE: self.add_site,
            m.REMOVE_SITE: self.remove_site,
            m.LOCK_SITE: self.lock_site,
            m.UNLOCK_SITE: self.unlock_site,
            m.LIST_PEOPLE: self.list_people,
            m.REMOVE_PERSON: self.remove_person,
            m.LIST_CERTIFICATES: self.list_certificates,
            m.REVOKE_CERTIFICATE: self.revoke_certificate,
            m.EXPORT_CRLS: self.export_crls,
        }

    # ---- sites ---------------------------------------------------------------------------

    async def add_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A site that this project did not have, or has had."""
        around, registry = self._around, self._around.registry
        verify_may_manage(call.caller, request.org)
        identity = self._new_site(request.name, request.org)
        command = around.commands.verify_fresh(call.caller, request)
        notes = self._verify_addable(identity)
        if command is None or identity.name in registry.sites:
            return _changed(identity, "added", changed=False, notes=notes)
        mark = self._mark(call, request.reason)
        enrolment = replace(registry.enrolment(identity.name), org=identity.org, added=mark, removed=None)
        row = self._row(call, "site.add", identity.name, mark.reason, org=identity.org)
        await around.store.commit([put_enrolment(enrolment), *around.commands.changes(command)], row)
        around.commands.add(command)
        registry.enrol(enrolment)
        around.changed()
        if enrolment.locked is not None:
            notes = (*notes, f"it is still locked, since it was {enrolment.locked.said}")
        notes = (*notes, f"next: flprov invite create {identity.name}")
        return _changed(identity, "added", reason=mark.reason, notes=notes)

    async def remove_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A site leaves: its certificates and open invites are revoked, what it did stays readable."""
        around, registry = self._around, self._around.registry
        identity = self._site(call, request.name)
        command = around.commands.verify_fresh(call.caller, request)
        before = registry.enrolment(identity.name)
        if command is None or identity.name not in registry.sites:
            return _changed(
                identity, "removed", changed=False, reason=before.removed.said if before.removed else ""
            )
        mark = self._mark(call, request.reason)
        enrolment = replace(before, org=identity.org, removed=mark)
        withdrawals = self._withdraw(
            [identity, *self._invites(identity)], Reason.CESSATION_OF_OPERATION, mark.by, mark.reason
        )
        ended = await revoke(
            around,
            withdrawals,
            self._row(call, "site.remove", identity.name, mark.reason, org=identity.org),
            more=[put_enrolment(enrolment), *around.commands.changes(command)],
            then=lambda: registry.enrol(enrolment),
            error=removal(enrolment, mark),
        )
        around.commands.add(command)
        return _changed(identity, "removed", reason=mark.reason, withdrawals=withdrawals, ended=ended)

    async def lock_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A site is kept out until it is unlocked; it keeps its certificate."""
        around, registry = self._around, self._around.registry
        identity = registry.identity(registry.find(request.name))
        verify_may_manage(call.caller, identity.org)
        command = around.commands.verify_fresh(call.caller, request)
        before = registry.enrolment(identity.name)
        if command is None or before.locked is not None:
            said = before.locked.said if before.locked else ""
            return _changed(identity, "locked", changed=False, reason=said)
        mark = self._mark(call, request.reason)
        enrolment = replace(before, org=identity.org, locked=mark)
        row = self._row(call, "site.lock", identity.name, mark.reason)
        changes = [put_enrolment(enrolment), *around.commands.changes(command)]
        await around.store.commit(changes, row, urgent=True)
        around.commands.add(command)
        registry.enrol(enrolment)
        error = locked(identity.name, mark)
        ended = sum(drop(around, one, error) for one in (identity, *self._invites(identity)))
        return _changed(identity, "locked", reason=mark.reason, ended=ended)

    async def unlock_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A locked site may come back; it does so by itself."""
        around, registry = self._around, self._around.registry
        identity = registry.identity(registry.find(request.name))
        verify_may_manage(call.caller, identity.org)
        command = around.commands.verify_fresh(call.caller, request)
        before = registry.enrolment(identity.name)
        if command is None or before.locked is None:
            return _changed(identity, "unlocked", changed=False)
        _verify_may_unlock(call.caller, before.locked)
        enrolment = replace(before, locked=None)
        row = self._row(call, "site.unlock", identity.name, foreign_line(request.reason, _LONGEST_REASON))
        await around.store.commit([put_enrolment(enrolment), *around.commands.changes(command)], row)
        around.commands.add(command)
        registry.enrol(enrolment)
        around.changed()
        return _changed(identity, "unlocked", reason=row.reason)

    def _new_site(self, name: str, org: str) -> Identity:
        try:
            return Identity(trust_domain=self._around.kit.trust_domain, kind=Kind.SITE, org=org, name=name)
        except IdentityRefused as error:
            raise Misuse(str(error), hint=error.hint) from error

    def _verify_addable(self, identity: Identity) -> tuple[str, ...]:
        """What there is to know before this site is added. Raises Conflict when it cannot be."""
        around, registry, name = self._around, self._around.registry, identity.name
        known = registry.sites.get(name)
        org = known.org if known else registry.provisioned_org(name)
        if org is not None and org != identity.org:
            raise Conflict(
                f"site {name} belongs to {org}, not to {identity.org}",
                hint=f"flprov site add {name} --org {org}; to move it, change project.yml and provision",
            )
        if name == around.kit.name or find_people(around, name):
            raise Conflict(f"{name} is the name of another party already", hint="choose another name")
        orgs = {*registry.orgs.values(), *(person.org for person in around.kit.people)}
        return () if identity.org in orgs else (f"{identity.org} is new: nobody else belongs to it yet",)

    def _site(self, call: Call, name: str) -> Identity:
        """The site, also if it was removed, which the caller may change."""
        registry = self._around.registry
        removed = registry.enrolment(name)
        if name not in registry.sites and removed.removed is not None:
            identity = self._new_site(name, removed.org)
        else:
            identity = registry.identity(registry.find(name))
        verify_may_manage(call.caller, identity.org)
        return identity

    def _invites(self, identity: Identity) -> list[Identity]:
        """The invites of a site that can still be used."""
        return [
            invite.identity(identity.trust_domain)
            for invite in undecided_invites(self._around, self._around.clock.now())
            if (invite.site, invite.org) == (identity.name, identity.org)
        ]

    # ---- people and certificates ---------------------------------------------------------

    async def list_people(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Everybody whom the server knows."""
        around = self._around
        people = [
            person_document(around, known, around.last_seen.get(uri))
            for uri, known in known_people(around).items()
        ]
        people.sort(key=lambda person: (person.name, person.identity))
        return _document(doc.PersonListDocument(people=tuple(people)))

    async def remove_person(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A person has left: whatever roles this name has had, none counts any more."""
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
        now = self._around.clock.now()
        found = list_certificates(self._around, now, every=request.all)
        return _document(doc.CertificateListDocument(certificates=found, at=now))

    async def revoke_certificate(self, call: Call, request: pb.CertificateChange) -> pb.Document:
        """Every certificate of a party, or one by its serial number."""
        reason = parse_reason(request.reason)
        target = find_target(self._around, request.target)
        return await self._revoke(call, request, target, reason, "cert.revoke")

    async def export_crls(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """What was revoked, signed, in the form that other software reads."""
        return _document(doc.CRLListDocument(lists=await export_crls(self._around)))

    async def _revoke(
        self, call: Call, request: pb.CertificateChange, target: Target, reason: Reason, what: str
    ) -> pb.Document:
        around = self._around
        for identity in target.identities:
            _verify_may_revoke(call.caller, identity)
        command = around.commands.verify_fresh(call.caller, request)
        comment = foreign_line(request.comment, _LONGEST_REASON)
        withdrawals = self._plan(target, reason, call.caller.uri, comment)
        verify_admin_remains(around, withdrawals)
        change = "removed" if what == "user.remove" else "revoked"
        if command is None or not withdrawals:
            return _changed(target.identities[0], change, changed=False, notes=(_already(around, target),))
        more: list[Change] = around.commands.changes(command)
        row = self._row(call, what, target.name, comment, cause=reason.value)
        ended = await revoke(around, withdrawals, row, more=more)
        around.commands.add(command)
        notes = _notes(call.caller, target)
        return _changed(
            target.identities[0], change, reason=comment, withdrawals=withdrawals, ended=ended, notes=notes
        )

    def _plan(self, target: Target, reason: Reason, by: str, comment: str) -> list[Withdrawal]:
        if target.record is not None:
            found = withdraw_serial(self._around, target.record, reason=reason, by=by, comment=comment)
            return [found] if found.serials else []
        identities = list(target.identities)
        if target.kind is Kind.SITE:
            identities += self._invites(identities[0])
        return self._withdraw(identities, reason, by, comment)

    def _withdraw(
        self, identities: Sequence[Identity], reason: Reason, by: str, comment: str
    ) -> list[Withdrawal]:
        return [
            withdraw_identity(self._around, identity.uri, reason=reason, by=by, comment=comment)
            for identity in identities
        ]

    def _mark(self, call: Call, reason: str) -> Mark:
        said = foreign_line(reason, _LONGEST_REASON)
        return Mark(by=call.caller.uri, at=self._around.clock.now(), reason=said)

    def _row(self, call: Call, what: str, name: str, reason: str, **data: object) -> Row:
        return Row(who=call.caller.uri, what=what, object=name, reason=reason, data=data)


def _verify_may_unlock(caller: Identity, lock: Mark) -> None:
    """What a project_admin has locked, an org_admin cannot open."""
    by = parse_identity(lock.by)
    if by.role is Role.PROJECT_ADMIN and caller.role is not Role.PROJECT_ADMIN:
        raise PermissionRefused(
            f"the site was locked {lock.said}; what a project_admin has locked, only one can unlock",
            hint=f"ask {by.name}",
        )


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


def _changed(
    identity: Identity,
    change: str,
    *,
    changed: bool = True,
    reason: str = "",
    withdrawals: Sequence[Withdrawal] = (),
    ended: int = 0,
    notes: tuple[str, ...] = (),
) -> pb.Document:
    cutoffs = {w.cutoff.identity for w in withdrawals if w.cutoff is not None}
    return _document(
        doc.PartyChangeDocument(
            name=identity.name,
            kind=identity.kind.value,
            change=change,
            changed=changed,
            reason=reason,
            identities=tuple(sorted(cutoffs | {entry.identity for w in withdrawals for entry in w.serials})),
            serials=tuple(entry.serial for w in withdrawals for entry in w.serials),
            ended=ended,
            notes=tuple(note for note in notes if note),
        )
    )


def _document(value: object) -> pb.Document:
    return pb.Document(json=canonical_json(value))
