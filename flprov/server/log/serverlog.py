# SPDX-License-Identifier: Apache-2.0
"""Wires the room of the log for one server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flprov._base import Clock, Tasks
from flprov.pki import Anchors
from flprov.rpc import Handler
from flprov.rpc import methods as m
from flprov.server.log.coalescing import Coalescer
from flprov.server.log.denials import Denials
from flprov.server.log.logservice import LogService
from flprov.server.log.refusals import Refusals
from flprov.server.log.witnesses import Witnesses
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Row, Store
from flprov.wire.documents import LogWarning, RefusedDocument

_BURST = 5  # of a site's comings, and of its goings, in one minute: more than any restart takes


class ServerLog:
    """Everything about the log but the writing of it."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        registry: Registry,
        sessions: Sessions,
        project_id: str,
        anchors: Callable[[], Anchors],
    ) -> None:
        """Args:
        clock: the server's.
        store: with the log.
        registry: the project's sites.
        sessions: those that are connected.
        project_id: of the project.
        anchors: the CAs of sites, as of now.
        """
        self.denials = Denials(store, clock, Refusals(clock, lambda: registry.orgs))
        self.witnesses = Witnesses(
            store=store,
            sessions=sessions,
            clock=clock,
            project_id=project_id,
            anchors=anchors,
            refuse=lambda session, error: self.denials.note(session.identity, m.CONTROL.path, error),
        )
        self._service = LogService(store, registry, self.witnesses)
        self._flapping = Coalescer(store, clock, burst=_BURST, rest=_more, overflow=_others)
        self._tasks = Tasks("witnesses")
        registry.pass_on = self._flapping.pass_on

    def load(self) -> None:
        """Read what was remembered."""
        self.witnesses.load()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers."""
        return self._service.table()

    def start(self) -> None:
        """Begin to ask the sites to vouch."""
        self._tasks.spawn(self.witnesses.run())

    def refused(self) -> tuple[RefusedDocument, ...]:
        """Whose calls were refused lately, the newest first."""
        return self.denials.refused()

    def warnings(self) -> tuple[LogWarning, ...]:
        """What is wrong with the log."""
        return self.witnesses.warnings()

    async def close(self) -> None:
        """End what runs in the background, and write what was counted."""
        await self._tasks.close()
        await self._flapping.close()
        await self.denials.close()


def _more(row: Row, count: int) -> Row:
    last = f"; the last: {row.reason}" if row.reason else ""
    return replace(row, reason=f"and {count:,} more times within a minute{last}")


def _others(row: Row) -> Row:
    return replace(row, object="several sites", reason="of more sites than are counted apart")
