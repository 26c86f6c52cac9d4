# SPDX-License-Identifier: Apache-2.0
"""A job's sites as they come, go, get ready and refuse; and the rule of membership on the open round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from flprov.jobs import JobState
from flprov.server.jobs import events as ev
from flprov.server.jobs.ending import Ending
from flprov.server.jobs.gather import Gather
from flprov.server.jobs.surroundings import Parts
from flprov.store import Row


class Membership:
    """Who takes part. Nothing here ends a process: who was given up may come back."""

    def __init__(self, parts: Parts, ending: Ending) -> None:
        self._parts = parts
        self._ending = ending
        self._noted: dict[str, datetime | None] = {}  # site -> since when it lacks, as written down last
        self._lost: dict[str, str] = {}  # sites that rounds went on without -> why; told when they return

    # ---- they come and go ----------------------------------------------------------------

    def came(self, site: str) -> None:
        """The site has a control stream."""
        parts = self._parts
        parts.sites.came(site)
        if parts.active and site in parts.sites.granted:
            parts.deploy(site)
        elif site in parts.record.unconfirmed:
            self._ending.ask(site)

    def went(self, site: str, reason: str) -> None:
        """The site has none any more."""
        parts = self._parts
        parts.sites.went(site, reason)
        asked = parts.rounds.gathers.awaiting(site) is not None
        if parts.record.state is JobState.RUNNING and asked:
            parts.sites.miss(site)  # also one that was never ready: it was asked, and is waited for

    async def granted(self, sites: tuple[str, ...]) -> None:
        """The scheduler gave the job further sites: on disk before any of them hears of it."""
        parts = self._parts
        parts.sites.grant(sites)
        await self._save_granted()
        parts.deploy(*sites)

    async def _save_granted(self) -> None:
        parts = self._parts
        everyone = tuple(sorted(parts.sites.granted))
        if everyone != parts.record.granted:
            names = ", ".join(sorted(set(everyone) - set(parts.record.granted)))
            row = Row(who="server", what="job.join", object=parts.record.id, reason=f"room at {names}")
            await parts.ledger.save(row, granted=everyone)

    # ---- ready or not --------------------------------------------------------------------

    async def deployed(self, events: Sequence[ev.SiteDeployed]) -> None:
        """Sites are ready for the job, or will not run it; this is what came together."""
        await self._join(dict.fromkeys(event.site for event in events if event.ready))
        for event in events:
            if self._parts.active:
                await self._deployed(event)

    async def _join(self, ready: Iterable[str]) -> None:
        """Write down who is ready for the first time."""
        parts, members = self._parts, set(self._parts.record.members)
        fresh = [site for site in ready if site not in members and self._was_asked(site)]
        rows = [Row(who="server", what="job.ready", object=parts.ledger.about(site)) for site in fresh]
        if rows:
            await parts.ledger.save(rows.pop(), before=rows, members=tuple(sorted(members.union(fresh))))

    def _was_asked(self, site: str) -> bool:
        return self._parts.sites.parts[site].state in ("deploying", "stalled")

    async def _deployed(self, event: ev.SiteDeployed) -> None:
        if event.ready:
            await self._ready(event.site)
        elif event.transient:
            self._waits(event.site, event.refusal)
        else:
            await self._refused(event)

    def _waits(self, site: str, reason: str) -> None:
        """A site that has no room just now: the scheduler proposes it again. No row: it may say so often."""
        parts = self._parts
        parts.sites.ungrant(site)
        parts.sites.set(site, "waiting", reason)
        parts.ledger.note(granted=tuple(name for name in parts.record.granted if name != site))
        if site in parts.record.members:
            parts.sites.miss(site)  # the rule of absence decides while it waits

    async def _ready(self, site: str) -> None:
        parts = self._parts
        if not self._was_asked(site):
            return
        parts.sites.came(site)  # also one that was missed while it had no room
        if site in self._lost:
            about = parts.ledger.about(site)
            row = Row(who=site, what="site.rejoin", object=about, reason=self._lost[site])
            await parts.ledger.save(row)
        parts.sites.set(site, "ready")
        self._resume(site)

    def _resume(self, site: str) -> None:
        """Give a site that is ready the task that is open for it, or tell it what went on without it."""
        parts, gathers = self._parts, self._parts.rounds.gathers
        lost = self._lost.pop(site, "")
        gather = gathers.taking(site)
        if gather is not None:
            parts.sites.order(site, parts.rounds.order(gather, site))
        elif lost and (gather := gathers.lost(site)) is not None:
            late = gathers.missed(gather.asked.task_id, site)
            again = "it is part of the next round again"
            parts.sites.acknowledge(site, gather.asked.task_id, late, again, late=True)

    async def _refused(self, event: ev.SiteDeployed) -> None:
        parts, site, reason = self._parts, event.site, event.refusal
        record, about = parts.record, parts.ledger.about(site)
        refusals = {**record.refusals, site: reason}
        await parts.ledger.save(
            Row(who=site, what="job.deploy", object=about, outcome="refused", reason=reason),
            refusals=refusals,
            members=tuple(name for name in record.members if name != site),
            causes=parts.ledger.causes(site, event.code, reason, hint=event.hint),
        )
        parts.sites.set(site, "refused", reason)
        await self.end_if_too_few()
        if not parts.active:
            return
        for gather in parts.rounds.gathers.open:
            waited = gather.awaits(site)
            if waited or site in gather.given_up:
                gather.lose(site, f"refused the job: {reason}")
            if waited:
                await parts.rounds.pass_on(gather, site)

    # ---- the rule ------------------------------------------------------------------------

    async def end_if_too_few(self) -> None:
        """Fail the job once those that have not refused it cannot run it.

        Looked at whenever the job moves on: a kill, or a full disk, may have come between the last refusal
        and the end.
        """
        record = self._parts.record
        if not record.refusals:
            return
        required = next((name for name in record.spec.sites.required if name in record.refusals), "")
        left = len(record.targets) - len(record.refusals)
        if required or left < record.quorum:
            site = required or list(record.refusals)[-1]
            need = "it is required" if required else f"{record.quorum} sites are needed, {left} are left"
            message = f"{site} refused the job: {record.refusals[site]} ({need})"
            await self._ending.fail(site, "job-failed", message, noted=True)

    async def settle(self) -> None:
        """Apply the rule of membership to every broadcast of the round."""
        await self.end_if_too_few()
        parts = self._parts
        if not parts.active:
            return
        away, still, now = parts.sites.away, parts.sites.still(), parts.around.clock.now()
        verdicts = [(gather, gather.judge(away, now, still)) for gather in parts.rounds.gathers.unsettled]
        for _, verdict in verdicts:
            if verdict.hopeless:
                noted = bool(parts.record.causes)
                await self._ending.fail("server", "job-failed", verdict.waiting, noted=noted)
                return
        for gather, verdict in verdicts:
            for site, reason in verdict.give_up.items():
                await self._give_up(gather, site, reason)
            if not gather.is_open:
                parts.rounds.gathers.settle(gather)
        if verdicts:
            waiting = dict.fromkeys(verdict.waiting for _, verdict in verdicts if verdict.waiting)
            parts.ledger.note(reason="; ".join(waiting))
            looks = [verdict.look_again for _, verdict in verdicts if verdict.look_again]
            parts.arm(min(looks, default=None))

    async def _give_up(self, gather: Gather, site: str, reason: str) -> None:
        parts = self._parts
        await self.note_lack(site, reason, parts.record.round)
        gather.give_up(site, reason)
        self._lost[site] = reason
        # One that is missed and yet being asked has only now got its room: its word is still to come.
        gone = site in parts.sites.away and not self._was_asked(site)
        parts.sites.set(site, "absent" if gone else "stalled", reason)
        await parts.rounds.pass_on(gather, site)

    async def note_lack(self, site: str, reason: str, number: int) -> None:
        """Write down, once for each time a site goes away, that the job went on without it."""
        parts = self._parts
        still = parts.sites.still().get(site)
        since = parts.sites.away.get(site) or (still.since if still else None)
        if site in self._noted and self._noted[site] == since:
            return
        message = f"{reason}; the job goes on without it from round {number + 1}"
        row = Row(
            who=site, what="site.absent", object=parts.ledger.about(site), outcome="absent", reason=message
        )
        causes = parts.ledger.causes(site, "site-unavailable", message, hint=f"flprov site show {site}")
        await parts.ledger.save(row, causes=causes)
        self._noted[site] = since
