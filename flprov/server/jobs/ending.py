# SPDX-License-Identifier: Apache-2.0
"""How a job ends: it finished, failed, or a person wants it gone; then everybody proves that they stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from flprov._base import backoff
from flprov.errors import FlprovError
from flprov.jobs import JobState
from flprov.server.foreign import foreign_line
from flprov.server.jobs import events as ev
from flprov.server.jobs.contributions import lacking
from flprov.server.jobs.stopping import Stopping
from flprov.server.jobs.surroundings import Parts
from flprov.server.records import BlobRef
from flprov.store import Change, Delete

logger = logging.getLogger(__name__)


class Ending:
    """Each way to the end names, in one transaction with its step, every site that may hold the job."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stopping = Stopping(parts.ledger, parts.sites, parts.workflow, parts.around.clock)
        self._begun = False

    # ---- the three ways ------------------------------------------------------------------

    async def finish(self, outcome: JobState, results: Mapping[str, BlobRef], reason: str = "") -> None:
        """The workflow has ended; `reason` says why before its last round, if it did."""
        await self._step(JobState.FINISHING, reason, "job.finish", results=results, outcome=outcome.value)

    async def fail(
        self,
        party: str,
        code: str,
        message: str,
        *,
        traceback: str = "",
        hint: str = "",
        noted: bool = False,
    ) -> None:
        """The job cannot go on; the first cause stays the first."""
        record = self._parts.record
        if not record.active:
            return
        message = foreign_line(message)
        causes = record.causes if noted else self._parts.ledger.causes(party, code, message, traceback, hint)
        await self._step(
            JobState.FINISHING, message, "job.fail", outcome=JobState.FAILED.value, causes=causes
        )

    async def abort(self, event: ev.AbortAsked) -> None:
        """A person decided."""
        record = self._parts.record
        if not (record.state.terminal or record.state is JobState.ABORTING):
            reason = event.reason or f"aborted by {event.who.rpartition('/')[2]}"
            try:
                await self._step(
                    JobState.ABORTING, reason, "job.abort", *event.more, who=event.who, aborted_by=event.who
                )
            except FlprovError as error:
                settle_future(event.recorded, error)
                return
        settle_future(event.recorded)

    async def _step(
        self, state: JobState, reason: str, what: str, *more: Change, who: str = "server", **changes: object
    ) -> None:
        ledger = self._parts.ledger
        holders = ledger.record.holders
        await ledger.step(state, reason, what, *more, who=who, unconfirmed=holders, **changes)
        self.stop_everywhere()

    # ---- the proof -----------------------------------------------------------------------

    async def resume(self) -> None:
        """After a restart of the server: whoever has not proven it is asked again."""
        record = self._parts.record
        if record.unconfirmed != record.holders:  # as an earlier version wrote it
            await self._parts.ledger.save(None, unconfirmed=record.holders)
        self.stop_everywhere()

    def stop_everywhere(self) -> None:
        """Tell the sites and the workflow's process."""
        self._parts.arm(self._stopping.begin())
        if not self._begun:  # an abort while finishing: the process is being ended already
            self._begun = True
            self._parts.tasks.spawn(self._stop_workflow())

    async def _stop_workflow(self) -> None:
        tries = backoff()
        while True:
            try:
                processes = await self._stopping.end_workflow()
            except (FlprovError, OSError) as error:  # no file or process is left on this machine, say
                logger.warning(
                    "job %s: its workflow could not be ended yet: %s", self._parts.record.id, error
                )
                await self._parts.around.clock.sleep(next(tries))
            else:
                self._parts.tell(ev.WorkflowStopped(processes=processes))
                return

    def workflow_stopped(self, processes: tuple[int, ...]) -> None:
        """The workflow's subtree of processes was killed; these are left."""
        self._stopping.workflow_ended(processes)

    async def sites_stopped(self, events: Sequence[ev.SiteStopped]) -> None:
        """The proofs of sites that came together, or their word that something is left."""
        await self._stopping.sites_stopped(events)

    def ask(self, site: str) -> None:
        """A site that owes its proof is back."""
        self._stopping.ask(site)

    def look_again(self) -> None:
        """The time to confirm may be over."""
        self._parts.arm(self._stopping.look_again())

    def lost(self, site: str) -> None:
        """A site that owes its proof went away."""
        self._stopping.lost(site)

    async def maybe_end(self) -> None:
        """The last step, once everybody has proven it or is named."""
        parts = self._parts
        if not self._stopping.done:
            return
        used = parts.blobs()
        last, reason = self._last()
        await parts.ledger.step(
            last,
            reason,
            "job.end",
            *(Delete("update", update.key) for update in parts.rounds.updates()),
            finished_at=parts.around.clock.now(),
            model=None,
        )
        parts.rounds.drop()
        parts.arm(None)
        await asyncio.to_thread(parts.workflow.clear)
        parts.around.collect(used)

    def _last(self) -> tuple[JobState, str]:
        record = self._parts.record
        if record.state is JobState.ABORTING:
            return JobState.ABORTED, record.reason
        outcome = JobState(record.outcome)
        if outcome is JobState.COMPLETED and record.unconfirmed:
            outcome = JobState.DEGRADED
        if outcome is JobState.DEGRADED:
            missed = lacking(record, self._parts.around.rounds(record.id))
            return outcome, "; ".join(filter(None, [record.reason, missed]))
        return outcome, record.reason


def settle_future(future: asyncio.Future[None], error: FlprovError | None = None) -> None:
    """Answer who waits, if somebody still does."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
