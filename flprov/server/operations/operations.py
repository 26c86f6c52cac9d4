# SPDX-License-Identifier: Apache-2.0
"""Wires the services of operations for one server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import TypedDict

from flprov._base import Clock, Tasks
from flprov.blobs import BlobStore
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.identities import Identities
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.jobs import Jobs
from flprov.server.operations.cleaning import Cleaner
from flprov.server.operations.drains import Drains
from flprov.server.operations.orders import Orders
from flprov.server.operations.parts import Parts
from flprov.server.operations.restored import restore_notes
from flprov.server.operations.safety import server_safety, site_safety
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Store
from flprov.wire import pb
from flprov.wire.documents import SiteDocument


class _Described(TypedDict):
    """Fields of a ServerDocument."""

    drained: str
    safe_to_stop: bool
    safe_when: str
    notes: tuple[str, ...]


class Operations:
    """Drain, stop, clean up: what an operator does to a network that runs."""

    def __init__(
        self,
        *,
        server: str,
        clock: Clock,
        store: Store,
        registry: Registry,
        sessions: Sessions,
        jobs: Jobs,
        identities: Identities,
        blobs: BlobStore,
        checkpoints: Retention,
        keep_jobs: timedelta | None = None,
    ) -> None:
        self._alone = identities.parties.alone  # marks of a site lie in one record with its lock
        self.parts = parts = Parts(
            server=server,
            clock=clock,
            store=store,
            registry=registry,
            sessions=sessions,
            jobs=jobs,
            commands=identities.around.commands,
        )
        self.orders = Orders(parts)
        self.drains = Drains(parts=parts, orders=self.orders)
        self.cleaner = Cleaner(parts, blobs, checkpoints=checkpoints, keep_jobs=keep_jobs)
        self._tasks = Tasks("operations")

    def load(self) -> None:
        """Read what was ordered before."""
        self.orders.load()

    def start(self) -> None:
        """What runs in the background, once the server serves."""
        self._tasks.spawn(self.cleaner.run())

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.DRAIN_SITE: self._alone(self.drains.drain_site),
            m.ENABLE_SITE: self._alone(self.drains.enable_site),
            m.WATCH_DRAIN: self.drains.watch_drain,
            m.ORDER_SITE: self.order_site,
            m.DRAIN_SERVER: self._alone(self.drains.drain_server),
            m.ENABLE_SERVER: self._alone(self.drains.enable_server),
            m.CLEAN: self.cleaner.clean,
        }

    async def order_site(self, call: Call, request: pb.SiteOrder) -> AsyncIterator[pb.Document]:
        """Stop or restart an agent: durable with the first reply; then how it goes, until it is over."""
        await self._alone(self._place)(call, request)
        async for found in self.orders.follow(request.name):
            yield found

    async def _place(self, call: Call, request: pb.SiteOrder) -> pb.Document:
        await self.orders.place(call, request)
        return pb.Document()

    def described(self) -> _Described:
        """The part of operations in the server's own document."""
        hold = self.parts.registry.hold
        safety = server_safety(self.parts.jobs, drained=bool(hold))
        return _Described(
            drained=hold.removeprefix("the server is "),
            safe_to_stop=safety.safe,
            safe_when=safety.when,
            notes=(*restore_notes(self.parts.store), *self.parts.jobs.scheduler.notes),
        )

    def complete(self, site: SiteDocument) -> SiteDocument:
        """A site's document with how it stands: drained, told to stop, safe to stop."""
        drained = self.parts.registry.closed(site.name)
        safety = site_safety(self.parts.jobs, site.name, drained=bool(drained))
        return replace(
            site,
            drained=drained,
            safe_to_stop=safety.safe,
            safe_when=safety.when,
            order=self.orders.said(site.name),
        )

    async def close(self) -> None:
        """End what runs in the background."""
        await self._tasks.close()
        await self.orders.close()
