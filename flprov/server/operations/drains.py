# SPDX-License-Identifier: Apache-2.0
"""Drain and enable: a site, or the whole server, that gets no new jobs and keeps those that run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from flprov._base import canonical_json, to_document
from flprov.errors import PermissionRefused
from flprov.pki import Role
from flprov.rpc import Call
from flprov.server.access import verify_may_manage
from flprov.server.durable import commit_through
from flprov.server.foreign import foreign_line
from flprov.server.operations.orders import Orders
from flprov.server.operations.parts import LONGEST_REASON, Parts
from flprov.server.operations.restored import forget_restore, restore_notes
from flprov.server.operations.safety import server_safety, site_safety
from flprov.server.records import Enrolment, Mark
from flprov.server.registry import DRAINED, put_enrolment
from flprov.store import Change, Delete, Put, Row
from flprov.wire import pb
from flprov.wire.documents import DrainDocument


@dataclass(frozen=True, kw_only=True)
class Drains:
    """The handlers. Each change is durable before it is acknowledged, and pushed to the site it is about."""

    parts: Parts
    orders: Orders

    # ---- sites ---------------------------------------------------------------------------

    async def drain_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """No new jobs there, from now on."""
        parts, before = self.parts, self._enrolment(call, request.name)
        command = parts.commands.verify_fresh(call, request, f"site {before.name}")
        if command is None or before.drained is not None:
            return self._site(before.name, changed=False)
        mark = parts.mark(call, request.reason)
        row = Row(who=mark.by, what="site.drain", object=before.name, reason=mark.reason)
        changes = [put_enrolment(replace(before, drained=mark)), *parts.commands.changes(command)]
        await commit_through(parts.store, changes, row, urgent=True)
        parts.commands.add(command)
        parts.enrol(replace(before, drained=mark))
        return self._site(before.name, changed=True)

    async def enable_site(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """New jobs may start there again; what its agent was told and has not done is taken back."""
        parts, before = self.parts, self._enrolment(call, request.name)
        command = parts.commands.verify_fresh(call, request, f"site {before.name}")
        order = self.orders.get(before.name)
        if command is None or (before.drained is None and order is None):
            return self._site(before.name, changed=False)
        reason = foreign_line(request.reason, LONGEST_REASON)
        row = Row(who=call.caller.uri, what="site.enable", object=before.name, reason=reason)
        after = replace(before, drained=None)
        changes = [
            put_enrolment(after),
            *self.orders.withdrawal(before.name),
            *parts.commands.changes(command),
        ]
        await commit_through(parts.store, changes, row)
        parts.commands.add(command)
        told = self.orders.withdraw(before.name)
        parts.enrol(after)
        notes = ("its agent was told to go before this; start it there if it has gone",) if told else ()
        return self._site(before.name, changed=True, notes=notes)

    def _enrolment(self, call: Call, name: str) -> Enrolment:
        site = self.parts.registry.find(name)
        verify_may_manage(call.caller, site.org)
        return replace(self.parts.registry.enrolment(name), org=site.org)

    def _site(self, name: str, *, changed: bool, notes: tuple[str, ...] = ()) -> pb.Document:
        return _document(self._site_document(name, changed=changed, notes=notes))

    def _site_document(self, name: str, *, changed: bool, notes: tuple[str, ...] = ()) -> DrainDocument:
        drained = self.parts.registry.closed(name)
        safety = site_safety(self.parts.jobs, name, drained=bool(drained))
        return DrainDocument(
            name=name,
            kind="site",
            changed=changed,
            drained=drained,
            safe_to_stop=safety.safe,
            safe_when=safety.when,
            jobs=safety.jobs,
            notes=notes,
        )

    # ---- the server ----------------------------------------------------------------------

    async def drain_server(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """No job starts anywhere, from now on."""
        parts = self.parts
        command = parts.commands.verify_fresh(call, request, "server")
        if command is None or parts.registry.drained is not None:
            return _document(self._server_document(changed=False))
        mark = parts.mark(call, request.reason)
        row = Row(who=mark.by, what="server.drain", object=parts.server, reason=mark.reason)
        changes: list[Change] = [Put(*DRAINED, to_document(mark)), *parts.commands.changes(command)]
        await commit_through(parts.store, changes, row, urgent=True)
        self._set(mark)
        parts.commands.add(command)
        return _document(self._server_document(changed=True))

    async def enable_server(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """Jobs start again. After a restore this also says that a person has looked."""
        parts = self.parts
        command = parts.commands.verify_fresh(call, request, "server")
        if command is None or parts.registry.drained is None:
            return _document(self._server_document(changed=False))
        reason = foreign_line(request.reason, LONGEST_REASON)
        row = Row(who=call.caller.uri, what="server.enable", object=parts.server, reason=reason)
        changes: list[Change] = [Delete(*DRAINED), *forget_restore(), *parts.commands.changes(command)]
        await commit_through(parts.store, changes, row)
        self._set(None)
        parts.commands.add(command)
        return _document(self._server_document(changed=True))

    def _set(self, mark: Mark | None) -> None:
        self.parts.registry.drained = mark
        self.parts.jobs.scheduler.wake()
        self.parts.bell.ring()

    def _server_document(self, *, changed: bool) -> DrainDocument:
        hold = self.parts.registry.hold
        safety = server_safety(self.parts.jobs, drained=bool(hold))
        return DrainDocument(
            name=self.parts.server,
            kind="server",
            changed=changed,
            drained=hold.removeprefix("the server is "),
            safe_to_stop=safety.safe,
            safe_when=safety.when,
            jobs=safety.jobs,
            notes=restore_notes(self.parts.store),
        )

    # ---- waiting -------------------------------------------------------------------------

    async def watch_drain(self, call: Call, request: pb.Query) -> AsyncIterator[pb.Document]:
        """How it stands, again after each change, until it is safe to stop or not drained any more.

        `id` names a site; empty: the server.
        """
        self._verify_may_watch(call, request.id)
        sent: DrainDocument | None = None
        while True:
            rung = self.parts.bell.next
            found = self._watched(request.id)
            if found != sent:
                sent = found
                yield _document(found)
            if found.safe_to_stop or not found.drained:
                return
            await rung.wait()

    def _verify_may_watch(self, call: Call, name: str) -> None:
        if name:
            verify_may_manage(call.caller, self.parts.registry.find(name).org)
        elif call.caller.role is not Role.PROJECT_ADMIN:
            raise PermissionRefused("only a project_admin may drain the server, and wait for it")

    def _watched(self, name: str) -> DrainDocument:
        return self._site_document(name, changed=False) if name else self._server_document(changed=False)


def _document(found: DrainDocument) -> pb.Document:
    return pb.Document(json=canonical_json(found))
