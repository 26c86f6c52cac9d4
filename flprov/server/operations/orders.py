# SPDX-License-Identifier: Apache-2.0
"""Stop and restart of a site's agent: an order that is kept until it has been carried out.

An order is meant for one agent, the one that is connected when it is given (`Hello.started_at`). It is
given again when that agent comes back after its link was lost, also to a server that was restarted
meanwhile. An agent that was started since has no part in it: the order is over.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace

from flprov._base import Tasks, canonical_json, from_document, to_document
from flprov.errors import FlprovError, SiteUnavailable
from flprov.rpc import Call
from flprov.server.access import verify_may_manage
from flprov.server.durable import commit_through
from flprov.server.operations.parts import Parts
from flprov.server.operations.safety import Safety, site_safety
from flprov.server.records import SiteOrder
from flprov.server.registry import put_enrolment
from flprov.server.sessions import Session
from flprov.store import Change, Delete, Put, Row
from flprov.wire import pb
from flprov.wire.documents import SiteOrderDocument

logger = logging.getLogger(__name__)

KIND = "order"


class Orders:
    """The orders that are open, by site."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._open: dict[str, SiteOrder] = {}
        self._told: set[str] = set()  # whose agent has been sent its order on this connection
        self._ends: dict[str, str] = {}  # how the last order of a site came to its end
        self._tasks = Tasks("orders")
        parts.sessions.listen(self._on_session)
        parts.bell.listen(self._advance)

    def load(self) -> None:
        """Read what was ordered before the last stop."""
        for value in self._parts.store.load(KIND).values():
            order = from_document(SiteOrder, value)
            self._open[order.name] = order

    async def close(self) -> None:
        """End what runs in the background."""
        await self._tasks.close()

    def get(self, name: str) -> SiteOrder | None:
        """What the agent of this site was told and has not done yet."""
        return self._open.get(name)

    def said(self, name: str) -> str:
        """`stop, asked by ada since 12:03`; empty: no order is open."""
        order = self._open.get(name)
        return f"{_word(order)}, asked {order.mark.since}" if order else ""

    # ---- given and taken back ------------------------------------------------------------

    async def place(self, call: Call, request: pb.SiteOrder) -> SiteOrder | None:
        """Write an order down; None when the same command came before, and is over.

        Raises:
            SiteUnavailable: there is no agent to carry it out.
        """
        parts = self._parts
        site = parts.registry.find(request.name)
        verify_may_manage(call.caller, site.org)
        about = f"site {site.name} {request.restart} {request.now}"
        command = parts.commands.verify_fresh(call, request, about)
        if command is None:
            return self._open.get(site.name)
        session = parts.sessions.get(site.name)
        if session is None:
            raise SiteUnavailable(
                f"site {site.name} is not connected, so nothing was done there",
                hint=f"flprov site why {site.name}; to keep new jobs away: flprov site drain {site.name}",
            )
        mark = parts.mark(call, request.reason)
        order = SiteOrder(
            name=site.name,
            mark=mark,
            restart=request.restart,
            now=request.now,
            started_at=session.hello.started_at,
        )
        enrolment = replace(parts.registry.enrolment(site.name), org=site.org)
        if not request.restart and enrolment.drained is None:
            enrolment = replace(enrolment, drained=mark)
        row = Row(
            who=mark.by,
            what=f"site.{_word(order)}",
            object=site.name,
            reason=mark.reason,
            data={"now": request.now},
        )
        changes: list[Change] = [
            Put(KIND, site.name, to_document(order)),
            put_enrolment(enrolment),
            *parts.commands.changes(command),
        ]
        await commit_through(parts.store, changes, row, urgent=True)
        parts.commands.add(command)
        self._ends.pop(site.name, None)
        self._told.discard(site.name)
        self._open[site.name] = order
        parts.enrol(enrolment)
        return order

    def withdrawal(self, name: str) -> list[Change]:
        """The change that takes an order back."""
        return [Delete(KIND, name)] if name in self._open else []

    def withdraw(self, name: str) -> bool:
        """After its commit. Whether the agent has been told already."""
        told = name in self._told
        self._end(name, "taken_back")
        return told

    # ---- carried out ---------------------------------------------------------------------

    def left(self, session: Session, leaving: pb.Leaving) -> None:
        """A site says that it goes, by its own decision or because it was told to."""
        order = self._open.get(session.name)
        if order is not None and not order.restart and not leaving.back:
            self._finish(order, "gone", "site.stopped")

    def _on_session(self, session: Session, connected: bool) -> None:
        self._told.discard(session.name)
        order = self._open.get(session.name)
        if connected and order is not None and session.hello.started_at != order.started_at:
            self._finish(order, "back", "site.restarted")

    def _advance(self) -> None:
        """Tell those agents whose moment has come."""
        for name, order in list(self._open.items()):
            session = self._parts.sessions.get(name)
            if session is None or name in self._told or session.hello.started_at != order.started_at:
                continue
            if order.restart or order.now or self._safety(name).safe:
                self._told.add(name)
                said = f"{_word(order)} asked {order.mark.since}"
                halt = pb.StopSite(reason=said, restart=order.restart)
                session.send(pb.ToSite(halt=halt))

    def _safety(self, name: str) -> Safety:
        return site_safety(self._parts.jobs, name, drained=True)

    def _finish(self, order: SiteOrder, how: str, what: str) -> None:
        self._end(order.name, how)
        self._tasks.spawn(self._write_end(order, what))

    def _end(self, name: str, how: str) -> None:
        if self._open.pop(name, None) is not None:
            self._ends[name] = how
        self._parts.bell.ring()

    async def _write_end(self, order: SiteOrder, what: str) -> None:
        row = Row(who="server", what=what, object=order.name, reason=f"asked {order.mark.said}")
        try:
            await self._parts.store.commit([Delete(KIND, order.name)], row)
        except FlprovError as error:  # it is found to be over again when that site comes back
            logger.warning("the end of an order for %s could not be written down: %s", order.name, error)

    # ---- followed ------------------------------------------------------------------------

    async def follow(self, name: str) -> AsyncIterator[pb.Document]:
        """How an order stands, again after each change, until it is over."""
        order = self._open.get(name)
        sent: SiteOrderDocument | None = None
        while order is not None:
            rung = self._parts.bell.next
            over = self._open.get(name) is not order
            found = self._ended(order) if over else self._standing(order)
            if found != sent:
                sent = found
                yield pb.Document(json=canonical_json(found))
            if over:
                return
            await rung.wait()

    def _standing(self, order: SiteOrder) -> SiteOrderDocument:
        name, word = order.name, _word(order)
        if name not in self._parts.sessions:
            text = f"{name} is not connected now; it is told to {word} when it comes back"
            if order.restart:
                text = f"{name} has gone, and is awaited"
            return SiteOrderDocument(name=name, order=word, state="waiting", text=text)
        if name in self._told:
            return SiteOrderDocument(name=name, order=word, state="told", text=f"{name} was told to {word}")
        safety = self._safety(name)
        text = f"{name} stops {safety.when}"
        return SiteOrderDocument(name=name, order=word, state="waiting", text=text, jobs=safety.jobs)

    def _ended(self, order: SiteOrder) -> SiteOrderDocument:
        name = order.name
        state = self._ends.get(name, "taken_back")
        texts = {
            "gone": f"{name} has stopped, and stays drained until: flprov site enable {name}",
            "back": f"{name} was started anew and is back",
            "taken_back": f"the order for {name} was taken back, or another one took its place",
        }
        return SiteOrderDocument(name=name, order=_word(order), state=state, text=texts[state])


def _word(order: SiteOrder) -> str:
    return "restart" if order.restart else "stop"
