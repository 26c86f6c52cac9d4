# SPDX-License-Identifier: Apache-2.0
"""Changes of sites: added, removed, locked, unlocked.

Each change is on disk, with its row, before it is acknowledged; then open calls are ended. Nothing here
needs a restart.
"""

from __future__ import annotations

from dataclasses import replace

from flprov.errors import Conflict, IdentityRefused, Misuse, PermissionRefused
from flprov.pki import Identity, Kind, Reason, Role, parse_identity
from flprov.rpc import Call
from flprov.server.access import verify_may_manage, verify_may_take_name
from flprov.server.durable import commit_through
from flprov.server.foreign import foreign_line
from flprov.server.identities.book import CertificateRecord
from flprov.server.identities.certificates import open_invites
from flprov.server.identities.changes import LONGEST_REASON, change_row, changed
from flprov.server.identities.people import find_people
from flprov.server.identities.revocations import drop, revoke, withdraw_identity, withdraw_serial
from flprov.server.identities.surroundings import Surroundings
from flprov.server.records import Mark
from flprov.server.registry import locked, put_enrolment, removal
from flprov.server.revocations import Withdrawal
from flprov.wire import pb


class SiteChanges:
    """The handlers of the four calls that change a site."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def add_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A site that this project did not have, or has had."""
        around, registry = self._around, self._around.registry
        verify_may_manage(call.caller, request.org)
        identity = self._new_site(request.name, request.org)
        command = around.commands.verify_fresh(call, request, identity.uri)
        notes = self._verify_addable(identity, call.caller)
        if command is None or identity.name in registry.sites:
            return changed(identity, "added", done=False, notes=notes)
        mark = self._mark(call, request.reason)
        enrolment = replace(registry.enrolment(identity.name), org=identity.org, added=mark, removed=None)
        row = change_row(call, "site.add", identity.name, mark.reason, org=identity.org)
        await commit_through(around.store, [put_enrolment(enrolment), *around.commands.changes(command)], row)
        around.commands.add(command)
        registry.enrol(enrolment)
        around.changed()
        if enrolment.locked is not None:
            notes = (*notes, f"it is still locked, since it was {enrolment.locked.said}")
        notes = (*notes, f"next: flprov invite create {identity.name}")
        return changed(identity, "added", reason=mark.reason, notes=notes)

    async def remove_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A site leaves: its certificates and open invites are revoked, what it did stays readable."""
        around, registry = self._around, self._around.registry
        identity = self._site(call, request.name)
        await around.settled()
        command = around.commands.verify_fresh(call, request, identity.uri)
        before = registry.enrolment(identity.name)
        if command is None or identity.name not in registry.sites:
            return changed(
                identity, "removed", done=False, reason=before.removed.said if before.removed else ""
            )
        mark = self._mark(call, request.reason)
        enrolment = replace(before, org=identity.org, removed=mark)
        withdrawals = withdraw_site(
            around, identity, reason=Reason.CESSATION_OF_OPERATION, by=mark.by, comment=mark.reason
        )
        ended = await revoke(
            around,
            withdrawals,
            change_row(call, "site.remove", identity.name, mark.reason, org=identity.org),
            more=[put_enrolment(enrolment), *around.commands.changes(command)],
            then=lambda: registry.enrol(enrolment),
            error=removal(enrolment, mark),
        )
        around.commands.add(command)
        return changed(identity, "removed", reason=mark.reason, withdrawals=withdrawals, ended=ended)

    async def lock_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A site is kept out until it is unlocked; it keeps its certificate."""
        around, registry = self._around, self._around.registry
        identity = registry.identity(registry.find(request.name))
        verify_may_manage(call.caller, identity.org)
        command = around.commands.verify_fresh(call, request, identity.uri)
        before = registry.enrolment(identity.name)
        if command is None or (before.locked is not None and not _outranks(call.caller, before.locked)):
            said = before.locked.said if before.locked else ""
            return changed(identity, "locked", done=False, reason=said)
        mark = self._mark(call, request.reason)
        enrolment = replace(before, org=identity.org, locked=mark)
        row = change_row(call, "site.lock", identity.name, mark.reason)
        changes = [put_enrolment(enrolment), *around.commands.changes(command)]
        await commit_through(around.store, changes, row, urgent=True)
        around.commands.add(command)
        registry.enrol(enrolment)
        error = locked(identity.name, mark)
        invites = [parse_identity(record.identity) for record in invites_of(around, identity)]
        ended = sum(drop(around, one, error) for one in (identity, *invites))
        return changed(identity, "locked", reason=mark.reason, ended=ended)

    async def unlock_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """A locked site may come back; it does so by itself."""
        around, registry = self._around, self._around.registry
        identity = registry.identity(registry.find(request.name))
        verify_may_manage(call.caller, identity.org)
        command = around.commands.verify_fresh(call, request, identity.uri)
        before = registry.enrolment(identity.name)
        if command is None or before.locked is None:
            return changed(identity, "unlocked", done=False)
        _verify_may_unlock(call.caller, before.locked)
        enrolment = replace(before, locked=None)
        row = change_row(call, "site.unlock", identity.name, foreign_line(request.reason, LONGEST_REASON))
        await commit_through(around.store, [put_enrolment(enrolment), *around.commands.changes(command)], row)
        around.commands.add(command)
        registry.enrol(enrolment)
        around.changed()
        return changed(identity, "unlocked", reason=row.reason)

    def _new_site(self, name: str, org: str) -> Identity:
        try:
            return Identity(trust_domain=self._around.kit.trust_domain, kind=Kind.SITE, org=org, name=name)
        except IdentityRefused as error:
            raise Misuse(str(error), hint=error.hint) from error

    def _verify_addable(self, identity: Identity, caller: Identity) -> tuple[str, ...]:
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
        if known is None:
            verify_may_take_name(caller, name, identity.org, registry.former_org(name))
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

    def _mark(self, call: Call, reason: str) -> Mark:
        said = foreign_line(reason, LONGEST_REASON)
        return Mark(by=call.caller.uri, at=self._around.clock.now(), reason=said)


def withdraw_site(
    around: Surroundings, identity: Identity, *, reason: Reason, by: str, comment: str
) -> list[Withdrawal]:
    """Every certificate of a site until now, and its invites. Nothing is changed yet."""
    own = withdraw_identity(around, identity.uri, reason=reason, by=by, comment=comment)
    invites = invites_of(around, identity)
    return [own, *(withdraw_serial(around, one, reason=reason, by=by, comment=comment) for one in invites)]


def invites_of(around: Surroundings, identity: Identity) -> list[CertificateRecord]:
    """The certificates of a site's invites that can still be used."""
    prefix = f"spiffe://{identity.trust_domain}/invite/{identity.org}/{identity.name}/"
    found = open_invites(around, around.clock.now())
    return [record for record in found if record.identity.startswith(prefix)]


def _outranks(caller: Identity, lock: Mark) -> bool:
    """A project_admin's lock takes the place of an org_admin's: else the latter could open it again."""
    return caller.role is Role.PROJECT_ADMIN and parse_identity(lock.by).role is not Role.PROJECT_ADMIN


def _verify_may_unlock(caller: Identity, lock: Mark) -> None:
    """What a project_admin has locked, an org_admin cannot open."""
    by = parse_identity(lock.by)
    if by.role is Role.PROJECT_ADMIN and caller.role is not Role.PROJECT_ADMIN:
        raise PermissionRefused(
            f"the site was locked {lock.said}; what a project_admin has locked, only one can unlock",
            hint=f"ask {by.name}",
        )
