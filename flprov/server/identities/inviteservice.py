# SPDX-License-Identifier: Apache-2.0
"""Invites: made, listed, decided on; and the one call that they are for."""

from __future__ import annotations

from collections.abc import AsyncIterator

from flprov._base import canonical_json
from flprov.kits import SignedTrust
from flprov.pki import Identity, Kind, Role, describe_leaf, verify_request, verify_signed
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.access import verify_may_manage
from flprov.server.commands import read_not_after, verify_key
from flprov.server.foreign import foreign_line
from flprov.server.identities.invitations import Invitations
from flprov.server.identities.invites import InviteRecord
from flprov.server.identities.surroundings import Surroundings
from flprov.wire import documents as doc
from flprov.wire import pb

_LONGEST_REASON = 200


class InviteService:
    """The handlers: who may, and what goes over the wire. What happens is in `invitations.py`."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._invitations = Invitations(around)

    def load(self) -> None:
        """Read what was remembered."""
        self._invitations.load()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.JOIN: self.join,
            m.CREATE_INVITE: self.create_invite,
            m.LIST_INVITES: self.list_invites,
            m.DECIDE_INVITE: self.decide_invite,
            m.RELAY_JOIN: self.relay_join,
        }

    # ---- the invited site ------------------------------------------------------------------

    async def join(self, call: Call, request: pb.JoinRequest) -> AsyncIterator[pb.JoinReply]:
        """A certificate for the key that the site has made; where an admin must approve it, after that."""
        public_pem = verify_request(request.request)
        serial = _serial(call)
        told = False
        while True:
            changed = self._invitations.changed  # before looking, so that no decision is missed
            record = await self._invitations.use(call.caller, public_pem, serial=serial)
            if record.chain:
                yield self._issued(record)
                return
            if not told:
                yield pb.JoinReply(pending=pb.JoinPending(fingerprint=record.fingerprint))
                told = True
            await self._invitations.wait(changed, record)

    async def relay_join(self, call: Call, request: pb.RelayedJoin) -> pb.JoinReply:
        """The same through files: the invite's key vouches for the request, and an admin hands it in.

        Whoever hands it in has compared the fingerprint, so that is the approval as well.
        """
        caller = self._verify_relayed(call.caller, request)
        public_pem = verify_request(request.request)
        command = self._around.commands.verify_fresh(call, request, caller.name)
        record = await self._invitations.use(
            caller,
            public_pem,
            serial=f"{describe_leaf(request.chain).serial:x}",
            approved_by=call.caller.uri,
        )
        if command is not None:
            await self._around.commands.remember(command)
        return self._issued(record)

    def _verify_relayed(self, admin: Identity, request: pb.RelayedJoin) -> Identity:
        """Whose invite it is."""
        invited = verify_signed(
            request.request,
            request.signature,
            request.chain,
            self._around.trust.current.anchors["sites"],
            now=self._around.clock.now(),
            kinds=[Kind.INVITE],
        )
        verify_may_manage(admin, invited.org)
        self._around.registry.verify_enrolled(invited, describe_leaf(request.chain))
        return invited

    def _issued(self, record: InviteRecord) -> pb.JoinReply:
        settings = canonical_json({"contact": self._around.kit.contact})
        return pb.JoinReply(
            issued=pb.Issued(
                chain=record.chain.encode(),
                trust=_bundle(self._around.trust.current.signed),
                settings=settings,
            )
        )

    # ---- admins ----------------------------------------------------------------------------

    async def create_invite(self, call: Call, request: pb.InviteRequest) -> pb.Document:
        """A new invite; what it needs besides is known to whoever creates it."""
        self._verify_fresh(request.not_after)
        found = self._around.registry.sites.get(request.site)
        verify_may_manage(call.caller, found.org if found else request.org)
        created = await self._invitations.create(
            call.caller,
            site=request.site,
            org=request.org,
            seconds=request.lifetime_seconds,
            approval=request.approval,
            public_pem=verify_request(request.request),
            command=verify_key(request.key),
            serial=_serial(call) or "",
        )
        return _document(created)

    async def list_invites(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """Those that the caller may decide on, the newest first."""
        now = self._around.clock.now()
        records = sorted(self._visible(call.caller), key=lambda record: record.created_at, reverse=True)
        return _document(doc.InviteListDocument(invites=tuple(record.describe(now) for record in records)))

    async def decide_invite(self, call: Call, request: pb.InviteDecision) -> pb.Document:
        """Approve a key that has come, or take an invite back. Repeating it has no second effect."""
        self._verify_fresh(request.not_after)
        book, visible = self._invitations.book, self._visible(call.caller)
        now = self._around.clock.now()
        record = book.find(request.id, visible, now)
        verify_may_manage(call.caller, record.org)
        command = self._around.commands.verify_fresh(call, request, f"{record.id} {request.approve}")
        if command is None:
            return _document(record.describe(now))
        if request.approve:
            decided = await self._invitations.approve(
                record.id, call.caller, request.fingerprint, _serial(call) or ""
            )
        else:
            reason = foreign_line(request.reason, _LONGEST_REASON)
            decided = await self._invitations.revoke(record.id, call.caller, reason)
        await self._around.commands.remember(command)
        return _document(decided.describe(self._around.clock.now()))

    def _visible(self, caller: Identity) -> list[InviteRecord]:
        everything = caller.role is Role.PROJECT_ADMIN
        return [record for record in self._invitations.book if everything or record.org == caller.org]

    def _verify_fresh(self, not_after: str) -> None:
        read_not_after(not_after, self._around.clock.now())


def _serial(call: Call) -> str | None:
    return f"{call.leaf.serial:x}" if call.leaf else None


def _bundle(signed: SignedTrust) -> pb.TrustBundle:
    return pb.TrustBundle(document=signed.document, signature=signed.signature, signer=signed.signer)


def _document(value: object) -> pb.Document:
    return pb.Document(json=canonical_json(value))
