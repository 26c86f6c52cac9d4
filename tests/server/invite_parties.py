# SPDX-License-Identifier: Apache-2.0
"""Invites as tests use them: created by an admin, and brought by a site with a key."""

from __future__ import annotations

import asyncio
from typing import Any

from identity_parts import Parts
from server_fakes import PATIENCE

from flprov._base import to_iso
from flprov.pki import (
    Identity,
    Kind,
    certificate_identity,
    create_key,
    create_request,
    describe_leaf,
    key_fingerprint,
    public_key_pem,
    sign,
)
from flprov.rpc import Call
from flprov.rpc import methods as m
from flprov.server.identities.invites import InviteBook
from flprov.wire import documents as doc
from flprov.wire import pb

DAY = 86_400.0


def book_of(parts: Parts) -> InviteBook:
    return parts.identities.invites._invitations.book


class Invited:
    """Who has an invite's line: its certificate, its key, and a key of the site's own."""

    def __init__(self, parts: Parts, issued: doc.InviteIssueDocument, private_pem: bytes) -> None:
        self.parts = parts
        self.id = issued.invite.id
        self.issued = issued
        self.certificate = issued.certificate.encode()
        self.identity = certificate_identity(self.certificate)
        self.private_pem = private_pem
        self.key = create_key()

    def mark(self, key: bytes | None = None) -> str:
        return key_fingerprint(public_key_pem(key or self.key))

    def stream(self, key: bytes | None = None) -> Any:
        """The open call, after the gate."""
        leaf = describe_leaf(self.certificate)
        self.parts.identities.gate(self.identity, leaf)
        call = Call(caller=self.identity, method=m.JOIN, peer="test", leaf=leaf)
        return self.parts.identities.invites.join(
            call, pb.JoinRequest(request=create_request(key or self.key))
        )

    async def join(self, key: bytes | None = None) -> pb.Issued:
        """Its certificate, at once."""
        async with asyncio.timeout(PATIENCE):
            reply = await anext(self.stream(key))
        assert reply.WhichOneof("body") == "issued"
        return reply.issued

    async def relay(self, *, by: str = "ada", **changes: Any) -> pb.Issued:
        """The same through an admin's hands."""
        request = create_request(self.key)
        fields = {
            "request": request,
            "signature": sign(self.private_pem, request),
            "chain": self.certificate,
            "not_after": self.parts.soon(),
        } | changes
        from server_parties import person

        call = Call(caller=person(by), method=m.RELAY_JOIN, peer="test")
        reply = await self.parts.identities.invites.relay_join(call, pb.RelayedJoin(**fields))
        return reply.issued


async def invite(parts: Parts, site: str = "site-1", *, by: str = "ada", **fields: Any) -> Invited:
    """A new invite."""
    private_pem = create_key()
    found = {
        "site": site,
        "lifetime_seconds": DAY,
        "request": create_request(private_pem),
        "not_after": parts.soon(),
    } | fields
    issued = await parts.call(m.CREATE_INVITE, doc.InviteIssueDocument, by=by, **found)
    return Invited(parts, issued, private_pem)


async def decide(parts: Parts, text: str, *, by: str = "ada", **fields: Any) -> doc.InviteDocument:
    found = {"id": text, "not_after": to_iso(parts.clock.now())} | fields
    return await parts.call(m.DECIDE_INVITE, doc.InviteDocument, by=by, **found)


async def listed(parts: Parts, *, by: str = "ada") -> dict[str, str]:
    """State by id."""
    found = await parts.call(m.LIST_INVITES, doc.InviteListDocument, by=by)
    return {one.id: one.state for one in found.invites}


def joined(parts: Parts, site: Identity) -> list[str]:
    """Serial numbers of the certificates that invites have brought to a site."""
    return [record.serial for record in parts.around.book.of(site.uri) if record.how == "join"]


__all__ = ["DAY", "Invited", "Kind", "book_of", "decide", "invite", "joined", "listed"]
