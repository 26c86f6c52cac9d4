# SPDX-License-Identifier: Apache-2.0
"""The end of a job everywhere: told to every site that may hold it, proven by each, or the site is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from flprov._base import Clock
from flprov.jobs import JobState
from flprov.server.jobs.events import SiteStopped
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.workflow import Workflow
from flprov.server.records import Proof
from flprov.store import Row
from flprov.wire import pb

_CONFIRM_SECONDS = 10.0  # beyond the job's grace, a site that does not confirm is named


class Stopping:
    """Who still has to prove that nothing of the job runs there: the sites and the workflow.

    The sites are the record's `unconfirmed`, written with the step that begins the end, and each leaves
    it with its proof. Here is only for whom the job's end still waits.
    """

    def __init__(self, ledger: JobLedger, sites: JobSites, workflow: Workflow, clock: Clock) -> None:
        self._ledger = ledger
        self._sites = sites
        self._workflow = workflow
        self._clock = clock
        self._asked: set[str] = set()
        self._workflow_ended = False
        self._until: datetime | None = None  # then nobody is waited for any more

    @property
    def done(self) -> bool:
        """Whether everybody has proven it or was given up."""
        return not self._asked and self._workflow_ended

    def begin(self) -> datetime:
        """Tell every site that may hold it; returns when to stop waiting for those that do not answer."""
        record = self._ledger.record
        for site in record.unconfirmed:
            if self._sites.stop(site):
                self._asked.add(site)
                self._sites.set(site, "stopping")
            else:
                self._sites.set(site, "absent", "not connected; it stops the job when it is back")
                if self._was_just_here(site):
                    self._asked.add(site)
        seconds = record.spec.resources.grace_seconds + _CONFIRM_SECONDS
        self._until = self._clock.now() + timedelta(seconds=seconds)
        return self._until

    def _was_just_here(self, site: str) -> bool:
        """Whether the end waits for a site that is away: one that was lost a moment ago, by a complete job.

        An agent that is started again comes back within seconds, and a job is not degraded for that. Any
        other end (an abort above all) waits for nobody who is away.
        """
        record, since = self._ledger.record, self._sites.away.get(site)
        if (
            record.outcome != JobState.COMPLETED.value
            or record.state is not JobState.FINISHING
            or since is None
        ):
            return False
        return self._clock.now() - since < timedelta(seconds=_CONFIRM_SECONDS)

    def lost(self, site: str) -> None:
        """A site went away in the meantime."""
        if not self._was_just_here(site):
            self.give_up(site)

    def look_again(self) -> datetime | None:
        """Give up who has not confirmed in time; returns when to ask again, if it was too early."""
        if self._until is not None and self._clock.now() < self._until:
            return self._until
        self.give_up()
        return None

    def ask(self, site: str) -> None:
        """Tell a site that was away."""
        if self._sites.stop(site):
            self._sites.set(site, "stopping")

    async def end_workflow(self) -> tuple[int, ...]:
        """Kill the workflow's processes; returns those that are left."""
        record = self._ledger.record
        await self._workflow.send(pb.ToWorker(quit=pb.Quit(reason=record.reason or "finished")))
        return await self._workflow.stop(record.spec.resources.grace_seconds)

    def workflow_ended(self, processes: tuple[int, ...]) -> None:
        """The workflow's subtree is empty, or holds these."""
        self._workflow_ended = True
        if processes:
            pids = ", ".join(map(str, processes))
            self._ledger.note(
                causes=self._ledger.causes("server", "local-error", f"processes {pids} could not be killed")
            )

    async def sites_stopped(self, events: Iterable[SiteStopped]) -> None:
        """The proofs of sites that came together, or their word that something is left."""
        await self._confirm({event.site: event.freed for event in events if event.clean})
        for event in events:
            if event.clean:
                self._asked.discard(event.site)
                self._sites.set(event.site, "stopped", event.reason)
            else:
                self._sites.set(event.site, "stopping", event.reason)
                self.give_up(event.site)

    async def _confirm(self, freed: Mapping[str, tuple[str, ...]]) -> None:
        record, now = self._ledger.record, self._clock.now()
        fresh = sorted(freed.keys() & set(record.unconfirmed))
        if not fresh:
            return
        about = self._ledger.about
        rows = [
            Row(who=site, what="job.stopped", object=about(site), data={"freed": list(freed[site])})
            for site in fresh
        ]
        await self._ledger.save(
            rows.pop(),
            before=rows,
            unconfirmed=tuple(name for name in record.unconfirmed if name not in freed),
            proofs={**record.proofs, **{site: Proof(at=now, freed=freed[site]) for site in fresh}},
        )

    def give_up(self, *sites: str) -> None:
        """Wait no longer for these (all, when none is named): the record names them until they confirm."""
        self._asked -= set(sites) if sites else set(self._asked)
