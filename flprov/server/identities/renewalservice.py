# SPDX-License-Identifier: Apache-2.0
"""Renewals: of sites over their live connection, and of the server itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from flprov._base import Tasks, canonical_json, to_iso
from flprov.errors import Conflict, IdentityRefused, TimedOut
from flprov.pki import Identity, Kind, describe_leaf, verify_request
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.access import verify_may_manage
from flprov.server.durable import commit_through
from flprov.server.foreign import foreign_line
from flprov.server.identities.book import CertificateRecord, delete, describe, put
from flprov.server.identities.lapses import Lapses
from flprov.server.identities.serverrenewal import ServerRenewal
from flprov.server.identities.surroundings import Surroundings
from flprov.store import Change, Row
from flprov.wire import pb
from flprov.wire.documents import RenewalDocument

_MOST_VALID = 16  # certificates of one site at a time; it needs three, and a few whose answer was lost
_PATIENCE = 30.0  # seconds for a site to do what it was asked


class RenewalService:
    """Renewals: of sites over their live connection, and of the server itself."""

    def __init__(self, around: Surroundings, own: ServerRenewal) -> None:
        self.own = own
        own.done = self._note_issued
        self._around = around
        self._issuing: Counter[str] = Counter()  # by identity: under way, and not in the book yet
        self._awaited: dict[str, set[asyncio.Future[CertificateRecord]]] = {}  # by identity
        self._lapses = Lapses(around)
        self._tasks = Tasks("renewals")

    def load(self) -> None:
        """Find the server's own certificate, or make one."""
        self.own.load()

    def start(self) -> None:
        """From now on the server renews its own certificate in time, and ends sites that have not."""
        self._tasks.spawn(self.own.run())
        self._tasks.spawn(self._lapses.run())

    async def close(self) -> None:
        """End what runs in the background."""
        await self._tasks.close()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {m.RENEW: self.renew, m.RENEW_CERTIFICATE: self.renew_certificate}

    # ---- a site renews -------------------------------------------------------------------

    async def renew(self, call: Call, request: pb.RenewRequest) -> pb.Issued:
        """A new certificate for the caller: whom its own certificate names, and for a key that it made."""
        around, caller = self._around, call.caller
        public = verify_request(request.request)
        self._verify_few(caller)
        self._issuing[caller.uri] += 1
        try:
            issued = around.issuer.issue(caller, around.trust.current, public_pem=public)
            record = describe(describe_leaf(issued.chain_pem), "renewal")
            await self._keep(caller, record, issued.chain_pem)
        finally:
            self._issuing[caller.uri] -= 1
            self._issuing += Counter()  # forgets the zeros
        # A revocation or lock may have come meanwhile. Then what was issued stays here.
        around.registry.verify_enrolled(caller, call.leaf)
        return pb.Issued(chain=issued.chain_pem)

    def _verify_few(self, caller: Identity) -> None:
        valid = self._around.book.valid(caller.uri, self._around.clock.now())
        if len(valid) + self._issuing[caller.uri] >= _MOST_VALID:
            first = min((record.not_after for record in valid), default=self._around.clock.now())
            raise IdentityRefused(
                f"{caller} has {_MOST_VALID} certificates that are still valid, and gets no more before one"
                f" of them ends on {first:%Y-%m-%d %H:%M:%S} UTC",
                hint="why does it ask again and again? Its own log says. A new invite makes room:"
                f" flprov invite create {caller.name}",
            )

    async def _keep(self, caller: Identity, record: CertificateRecord, chain_pem: bytes) -> None:
        around = self._around
        gone = around.book.expired(caller.uri, around.clock.now())
        row = Row(
            who=caller.uri,
            what="cert.renew",
            object=caller.name,
            data={"serial": record.serial, "not_after": to_iso(record.not_after)},
        )
        changes: list[Change] = [put(record), *map(delete, gone)]
        await around.registry.renewed(caller.name, describe_leaf(chain_pem), row, changes)
        around.book.add(record)
        around.book.remove(gone)
        self._note_issued(record)

    # ---- an admin asks -------------------------------------------------------------------

    async def renew_certificate(self, call: Call, request: pb.PartyChange) -> pb.Document:
        """Have a site or the server renew now; answers when it has."""
        around, name = self._around, request.name
        reason = foreign_line(request.reason, 200)
        identity, org, ask = self._find(name, reason or f"{call.caller} asks for it")
        verify_may_manage(call.caller, org)
        command = around.commands.verify_fresh(call, request, identity.uri)
        known = around.book.of(identity.uri)
        if command is None and known:  # the answer was lost: what came of it is told
            record = known[-1]
        else:
            if command is not None:
                self._verify_room(identity)
                row = Row(who=call.caller.uri, what="cert.ask", object=name, reason=reason)
                await commit_through(around.store, around.commands.changes(command), row)
                around.commands.add(command)
            record = await self._wait_for_new(identity, ask)
        found = RenewalDocument(
            name=name, serial=record.serial, issued_at=record.issued_at, not_after=record.not_after
        )
        return pb.Document(json=canonical_json(found))

    def _verify_room(self, identity: Identity) -> None:
        """Asked for too often, a site would have none left for when it must renew by itself."""
        valid = self._around.book.valid(identity.uri, self._around.clock.now())
        if identity.kind is Kind.SITE and len(valid) >= _MOST_VALID // 2:
            raise Conflict(
                f"site {identity.name} has {len(valid)} certificates that are still valid, the last of"
                f" {valid[-1].issued_at:%Y-%m-%d %H:%M} UTC: it is not asked for another one",
                hint="to have it start anew: flprov cert revoke, then flprov invite create",
            )

    def _find(self, name: str, reason: str) -> tuple[Identity, str, Callable[[], None]]:
        """Who is to renew, whose that is, and how to ask."""
        around = self._around
        if name == around.kit.name:
            return around.kit.identity, around.kit.org, self.own.renew_now
        site = around.registry.find(name)
        message = pb.ToSite(renew=pb.RenewNow(reason=reason))
        return around.registry.identity(site), site.org, lambda: around.sessions.send(name, message)

    async def _wait_for_new(self, identity: Identity, ask: Callable[[], None]) -> CertificateRecord:
        awaited: asyncio.Future[CertificateRecord] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(identity.uri, set()).add(awaited)
        try:
            ask()
            async with asyncio.timeout(_PATIENCE):
                return await awaited
        except TimeoutError:
            raise TimedOut(
                f"{identity} was asked to renew, and has not done so within {_PATIENCE:g} seconds",
                hint="it goes on trying; why it does not get there: flprov site status KIT, on its machine",
            ) from None
        finally:
            self._forget(identity.uri, awaited)

    def _forget(self, uri: str, awaited: asyncio.Future[CertificateRecord]) -> None:
        mine = self._awaited.get(uri, set())
        mine.discard(awaited)
        if not mine:
            self._awaited.pop(uri, None)

    def _note_issued(self, record: CertificateRecord) -> None:
        for awaited in self._awaited.get(record.identity, ()):
            if not awaited.done():
                awaited.set_result(record)
