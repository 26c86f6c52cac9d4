# SPDX-License-Identifier: Apache-2.0
"""Trust bundles: published by a project_admin, handed on to everybody, and who holds which.

The server cannot make a bundle or change one: a provisioner signs it. It can only be late. What it does
with a newer one: believe the CAs in it from the next call on, push it to every site that is connected, ask
those to renew whose certificate is of a CA that issues no more, and end the calls of those who may not
come any longer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from flprov._base import Tasks, canonical_json, from_document, to_document
from flprov.blobs import digest_of
from flprov.errors import Conflict, IdentityRefused
from flprov.kits import SignedTrust, Trust
from flprov.pki import Anchors, Identity, Kind, describe_leaf, load_anchors, parse_identity
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.durable import commit_through
from flprov.server.identities.surroundings import Surroundings
from flprov.server.identities.trust import listed
from flprov.server.identities.trustview import newest, trust_document
from flprov.server.sessions import Session
from flprov.store import Put, Row
from flprov.wire import pb

logger = logging.getLogger(__name__)

HELD = "trust-held"
_ISSUED_HERE = {Kind.SERVER: "servers", Kind.SITE: "sites"}


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Which bundle somebody has said to hold."""

    identity: str
    version: int
    at: datetime | None = None  # since when the server knows it; None in older records


class TrustService:
    """Takes newer bundles, hands them on, remembers who holds which."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._held: dict[str, int] = {}  # by identity
        self._since: dict[str, datetime | None] = {}
        self._tasks = Tasks("trust")
        self._publishing = asyncio.Lock()
        around.sessions.listen(self._met)

    def load(self) -> None:
        """Read who holds which bundle."""
        for value in self._around.store.load(HELD).values():
            holding = from_document(Holding, value)
            self._held[holding.identity] = holding.version
            self._since[holding.identity] = holding.at

    def holding(self, identity: str) -> Holding:
        """What somebody has said to hold last; version 0: nothing newer than the kit."""
        return Holding(identity=identity, version=self._held.get(identity, 0), at=self._since.get(identity))

    async def close(self) -> None:
        """Wait until what was said is on the disk."""
        await self._tasks.settle()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.FETCH_TRUST: self.fetch,
            m.SHOW_TRUST: self.show,
            m.PUBLISH_TRUST: self.publish,
        }

    # ---- what people call ----------------------------------------------------------------

    async def fetch(self, call: Call, request: pb.Query) -> pb.TrustBundle:
        """The current bundle, for somebody who holds an older one (`id` says which); else an empty one."""
        trust = self._around.trust.current
        said = int(request.id) if re.fullmatch(r"[0-9]{1,18}", request.id) else 0
        await self._hold(call.caller.uri, trust.version)
        return to_message(trust.signed) if said < trust.version else pb.TrustBundle()

    async def show(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """What is believed here, and who has heard of it."""
        return self._document()

    async def publish(self, call: Call, request: pb.PublishTrust) -> pb.Document:
        """Take a newer bundle. The current one again has no effect."""
        command = self._around.commands.verify_fresh(call, request, digest_of(request.trust.document))
        if command is None:
            return self._document()
        signed = SignedTrust(
            document=request.trust.document, signature=request.trust.signature, signer=request.trust.signer
        )
        async with self._publishing:
            trust = self._around.trust.verify(signed, self._around.clock.now())
            keys = [(key.certificate, key.private) for key in request.keys]
            if trust is None:
                self._take_keys(keys, self._around.trust.current)
            else:
                self._verify_leaves_nobody_out(trust, call)
                self._take_keys(keys, trust)
                await self._accept(trust, call.caller)
            await self._hold(call.caller.uri, self._around.trust.current.version)
        await self._around.commands.remember(command)
        return self._document()

    def _document(self) -> pb.Document:
        return pb.Document(json=canonical_json(trust_document(self._around, self._held)))

    def _verify_leaves_nobody_out(self, trust: Trust, call: Call) -> None:
        """A bundle under which this server, or whoever publishes it, could not go on is not taken."""
        if call.leaf is not None:
            if not _is_of(call.leaf.issuer_key_id, trust.anchors["people"]):
                raise Conflict(
                    f"after this your own certificate would count no more: the CA that issued it is not in"
                    f" trust bundle {trust.version}",
                    hint="`flprov provision` makes you a kit of the new CA; act with it: flprov use KIT",
                )
            if call.leaf.serial in trust.revoked_people:
                raise Conflict(
                    f"trust bundle {trust.version} revokes the very certificate with which it came",
                    hint="act with your newer kit (flprov use KIT), or let another project_admin publish it",
                )
        chain, _ = self._around.credential()
        if not _is_of(describe_leaf(chain).issuer_key_id, trust.anchors["servers"]):
            raise Conflict(
                f"the server still shows a certificate of a servers CA that is not in trust bundle"
                f" {trust.version}",
                hint="`flprov ca rotate activate` makes it renew; flprov ca rotate status",
            )

    def _take_keys(self, keys: Iterable[tuple[bytes, bytes]], trust: Trust) -> None:
        """Keep the CAs that came along, which must be the bundle's, if those that it needs are then here."""
        issuer = self._around.issuer
        named = trust.anchors["servers"].members + trust.anchors["sites"].members
        known = {anchor.certificate.der: anchor.key_id.hex() for anchor in named}
        for certificate, private in keys:
            found = load_anchors(certificate).members
            key_id = known.get(found[0].certificate.der) if len(found) == 1 else None
            if key_id is None:
                raise IdentityRefused(
                    f"a CA came along that trust bundle {trust.version} does not name for the server"
                )
            if not issuer.has(key_id):
                issuer.add(certificate, private)
        for kind, unit in _ISSUED_HERE.items():
            if not issuer.has(trust.active(kind)):
                raise Conflict(
                    f"this server does not have the key of the {unit} CA that trust bundle {trust.version}"
                    " puts first",
                    hint="publish it from the workspace, which has the key: flprov ca publish",
                )

    async def _accept(self, trust: Trust, by: Identity) -> None:
        """From here on nothing may fail but the disk: the row first, then the bundle, then everybody."""
        around = self._around
        data: dict[str, object] = {"version": trust.version, "phase": trust.says.phase}
        row = Row(who=by.uri, what="trust.publish", object=str(trust.version), data=data)
        await commit_through(around.store, [], row, urgent=True)
        before = around.trust.current
        around.trust.accept(trust)
        chain, private = around.credential()
        around.show(chain, private, around.trust.peers)
        self._forget_old(before, trust)
        for session in around.sessions:
            self._push(session)
        self._end_calls(trust)
        logger.info("trust bundle %d (%s) is in force", trust.version, trust.says.phase)

    def _forget_old(self, before: Trust, trust: Trust) -> None:
        for unit in _ISSUED_HERE.values():
            for anchor in before.anchors[unit].members:
                if not _is_of(anchor.key_id.hex(), trust.anchors[unit]):
                    self._around.issuer.forget(anchor.key_id.hex())

    def _end_calls(self, trust: Trust) -> None:
        """End what is open of people who are on the list, and of sites whose CA has gone."""
        around = self._around
        serials = {f"{serial:x}" for serial in trust.revoked_people}
        for record in around.book:
            if record.serial in serials:
                identity = record.identity
                around.drop(identity, listed(parse_identity(identity)))
        for session in around.sessions:
            found = newest(around, session.identity.uri)
            if found is not None and not _is_of(found.issuer_key_id, trust.anchors["sites"]):
                reason = IdentityRefused(
                    f"the CA that issued the certificate of site {session.name} is no longer believed:"
                    " this project has a new one",
                    hint=f"ask an admin for a new invite: flprov invite create {session.name}",
                )
                session.closed_because = session.closed_because or str(reason)
                around.drop(session.identity.uri, reason)

    # ---- sites ---------------------------------------------------------------------------

    def _met(self, session: Session, connected: bool) -> None:
        if connected:
            self._note(session.identity.uri, session.hello.trust)
            self._push(session)

    def note_held(self, session: Session, version: int) -> None:
        """A site says that it has verified this bundle and keeps it."""
        uri = session.identity.uri
        self._note(uri, max(version, self._held.get(uri, 0)))  # it goes back with a new stream alone
        self._ask_to_renew(session)

    def _push(self, session: Session) -> None:
        """Send the bundle, if the site holds an older one; it is asked to renew when it has it."""
        trust = self._around.trust.current
        if self._held.get(session.identity.uri, 0) < trust.version:
            session.send(pb.ToSite(trust=to_message(trust.signed)))
        else:
            self._ask_to_renew(session)

    def _ask_to_renew(self, session: Session) -> None:
        trust = self._around.trust.current
        found = newest(self._around, session.identity.uri)
        if found is None or found.issuer_key_id == trust.active(Kind.SITE):
            return
        if _is_of(found.issuer_key_id, trust.anchors["sites"]):
            session.send(
                pb.ToSite(renew=pb.RenewNow(reason="another CA issues the certificates of sites now"))
            )

    def _note(self, identity: str, version: int) -> None:
        version = min(version, self._around.trust.current.version)  # this server may be a restored one
        if self._held.get(identity, 0) != version:
            self._held[identity] = version
            self._tasks.spawn(self._hold(identity, version))

    async def _hold(self, identity: str, version: int) -> None:
        self._held[identity] = version
        kept = self._around.store.get(HELD, identity)
        if kept is None or from_document(Holding, kept).version != version:
            self._since[identity] = now = self._around.clock.now()
            holding = Holding(identity=identity, version=version, at=now)
            await self._around.store.commit([Put(HELD, identity, to_document(holding))], None)


def to_message(signed: SignedTrust) -> pb.TrustBundle:
    """The bundle as it travels."""
    return pb.TrustBundle(document=signed.document, signature=signed.signature, signer=signed.signer)


def _is_of(key_id: str, anchors: Anchors) -> bool:
    return any(anchor.key_id.hex() == key_id for anchor in anchors.members)
