# SPDX-License-Identifier: Apache-2.0
"""The end of a job everywhere: told to every site, proven by each, or the site is named."""

from __future__ import annotations

from datetime import datetime, timedelta

from flprov._base import Clock
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.workflow import Workflow
from flprov.store import Row
from flprov.wire import pb

_CONFIRM_SECONDS = 10.0  # beyond the job's grace, a site that does not confirm is named


class Stopping:
    """Who still has to prove that nothing of the job runs there: the sites and the workflow."""

    def __init__(self, ledger: JobLedger, sites: JobSites, workflow: Workflow, clock: Clock) -> None:
        self._ledger = ledger
        self._sites = sites
        self._workflow = workflow
        self._clock = clock
        self._asked: set[str] = set()
        self._workflow_ended = False

    @property
    def done(self) -> bool:
        """Whether everybody has proven it or was given up."""
        return not self._asked and self._workflow_ended

    def begin(self) -> datetime:
        """Tell every site; returns when to stop waiting for those that do not answer."""
        for site in self._sites.in_state("waiting", "deploying", "ready", "training", "absent", "stopping"):
            if self._sites.stop(site):
                self._asked.add(site)
                self._sites.set(site, "stopping")
        record = self._ledger.record
        away = set(record.members) - self._asked - set(record.refusals)
        self._ledger.note(unconfirmed=tuple(sorted(away)))
        return self._clock.now() + timedelta(seconds=record.spec.resources.grace_seconds + _CONFIRM_SECONDS)

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

    async def site_stopped(self, site: str, *, clean: bool, reason: str) -> None:
        """A site's proof, or its word that something is left."""
        if not clean:
            self._sites.set(site, "stopping", reason)
            self.give_up(site)
            return
        self._asked.discard(site)
        self._sites.set(site, "stopped", reason)
        unconfirmed = self._ledger.record.unconfirmed
        if site in unconfirmed:
            left = tuple(name for name in unconfirmed if name != site)
            row = Row(who=site, what="job.stopped", object=self._ledger.about(site))
            await self._ledger.save(row, unconfirmed=left)

    def give_up(self, *sites: str) -> None:
        """Wait no longer for these (all, when none is named): the record names them until they confirm."""
        gone = self._asked & set(sites) if sites else set(self._asked)
        self._asked -= gone
        self._ledger.note(unconfirmed=tuple(sorted({*self._ledger.record.unconfirmed, *gone})))
