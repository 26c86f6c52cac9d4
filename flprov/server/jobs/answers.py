# SPDX-License-Identifier: Apache-2.0
"""What sites answer to the open task.

Each answer is on disk before it is acknowledged. The workflow gets it before that, and folds at once; what it
makes of it counts only once its round is saved, and no round is saved without every answer in it. A round
that is over within a moment is written together with its answers, in one transaction; else they are written
when the moment is over. When the server is killed in between, its workflow ends with it, the site still has
its answer, and the round is run again from the saved state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from flprov._base import to_document
from flprov.server.jobs import events as ev
from flprov.server.jobs.gathers import LATE
from flprov.server.jobs.surroundings import Parts
from flprov.server.records import UpdateRecord
from flprov.store import Put, Row

MOMENT = 0.02  # seconds in which a round may end, and its answers be written with it


class Answers:
    """Updates and failures, in time, late, and twice."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._unwritten: dict[str, tuple[UpdateRecord, Row]] = {}  # updates that were taken
        self._due: asyncio.TimerHandle | None = None

    async def updated(self, events: Iterable[ev.SiteUpdated]) -> None:
        """Updates that passed our checks; those that come within a moment share a sync of the disk."""
        try:
            for event in events:
                await self._take(event.update)
        finally:  # those before one that fails were taken
            if self._unwritten and self._due is None:
                loop = asyncio.get_running_loop()
                self._due = loop.call_later(MOMENT, self._parts.tell, ev.AnswersDue())

    async def _take(self, update: UpdateRecord) -> None:
        parts, site = self._parts, update.site
        if update.key in self._unwritten:  # the disk did not take it, and it comes once more
            return
        gather = parts.rounds.taking(update.task_id, site) if parts.active else None
        if gather is None:
            await self.late(site, update.task_id)
            return
        tensors = parts.workflow.hand_in(update.tensors)  # first: where the disk refuses, nothing has changed
        self._unwritten[update.key] = (update, _row(update, late=site in gather.given_up))
        gather.take(update)
        await parts.rounds.pass_on(gather, site, tensors)
        self._free(site)

    @property
    def unwritten(self) -> tuple[tuple[UpdateRecord, Row], ...]:
        """Updates that were taken and are on no disk yet, each with its row."""
        return tuple(self._unwritten.values())

    async def write(self) -> None:
        """Bring to disk what was taken, and acknowledge it.

        Raises:
            LocalError: it could not be written; its sites hear nothing.
        """
        waiting = self.unwritten
        if waiting and self._parts.active:  # of a job that has ended nothing is kept
            changes = [Put("update", update.key, to_document(update)) for update, _ in waiting]
            *before, last = (row for _, row in waiting)
            await self._parts.around.store.commit(changes, last, before=before)
        self.written()
        for update, _ in waiting:
            self._parts.sites.acknowledge(update.site, update.task_id)

    def written(self) -> None:
        """All that was taken is on disk, or not wanted any more."""
        self._unwritten.clear()
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _free(self, site: str, reason: str = "") -> None:
        """The site has answered; it may have its next task already."""
        if self._parts.rounds.gathers.awaiting(site) is None:
            self._parts.sites.set(site, "ready", reason)

    async def late(self, site: str, task_id: str) -> None:
        """An answer that does not count: the site hears why, once it is known."""
        parts = self._parts
        if f"{parts.record.id}/{task_id}/{site}" in self._unwritten:
            return
        if parts.rounds.holds(task_id, site):
            parts.sites.acknowledge(site, task_id)
            return
        missed = parts.rounds.gathers.missed(task_id, site)
        if missed and parts.active:
            await self._count(site, task_id, missed)
            if parts.sites.parts[site].state == "training":  # at a task that was withdrawn
                self._free(site)
        elif parts.active and (parts.rounds.replayed or not len(parts.rounds.gathers)):
            return  # the workflow has not asked yet, after a restart: the site is asked again then
        parts.sites.acknowledge(site, task_id, missed or LATE, late=True)

    async def _count(self, site: str, task_id: str, reason: str) -> None:
        parts = self._parts
        if parts.rounds.gathers.was_late(task_id, site):
            return
        late = {**parts.record.late, site: parts.record.late.get(site, 0) + 1}
        about = f"{parts.record.id}/{task_id}/{site}"
        row = Row(who=site, what="update.late", object=about, outcome="late", reason=reason)
        await parts.ledger.save(row, late=late)
        parts.rounds.gathers.note_late(task_id, site)

    async def failed(self, event: ev.SiteFailed) -> None:
        """A task that failed at a site, or an update that our checks refused."""
        parts, site, message = self._parts, event.site, event.message
        gather = parts.rounds.awaited(event.task_id, site) if parts.active else None
        if gather is None:
            parts.sites.acknowledge(site, event.task_id, message)
            return
        refused = event.code == "update-refused"
        row = Row(
            who=site,
            what="update.refuse" if refused else "task.fail",
            object=f"{parts.record.id}/{event.task_id}/{site}",
            outcome="refused" if refused else "failed",
            reason=message,
        )
        causes = parts.ledger.causes(site, event.code, message, event.traceback, event.hint)
        await parts.ledger.save(row, causes=causes)
        (gather.refuse if refused else gather.fail)(site, message)
        parts.sites.acknowledge(site, event.task_id, message, event.hint)
        self._free(site, message)
        await parts.rounds.pass_on(gather, site)


def _row(update: UpdateRecord, *, late: bool) -> Row:
    data = {"samples": update.samples, **({"late": True} if late else {})}
    return Row(who=update.site, what="update.accept", object=update.key, data=data)
