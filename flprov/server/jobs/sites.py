# SPDX-License-Identifier: Apache-2.0
"""A job's sites: how far each is, who is away since when, and the messages that go to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from flprov._base import Clock
from flprov.errors import SiteUnavailable
from flprov.server.jobs.ledger import JobLedger
from flprov.server.sessions import Sessions
from flprov.wire import pb


@dataclass(frozen=True, kw_only=True)
class SitePart:
    """How far a site is with this job."""

    state: str = "waiting"  # waiting, deploying, ready, training, refused, absent, stopping, stopped
    reason: str = ""
    since: datetime | None = None
    progress: str = ""


class JobSites:
    """Memory only: after a restart of the server it is learned again from the sites."""

    def __init__(self, ledger: JobLedger, sessions: Sessions, clock: Clock) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._clock = clock
        self.parts = {site: SitePart() for site in ledger.record.targets}
        self.granted = set(ledger.record.members)  # sites that the scheduler gave to this job
        self.away: dict[str, datetime] = {}  # members without a control stream

    # ---- what is known -------------------------------------------------------------------

    def in_state(self, *states: str) -> list[str]:
        """The sites in one of these states."""
        return [site for site, part in self.parts.items() if part.state in states]

    @property
    def lacking(self) -> tuple[str, ...]:
        """Sites that the job is for and that the scheduler has not given it yet."""
        record = self._ledger.record
        return tuple(site for site in record.targets if site not in self.granted | record.refusals.keys())

    def holds(self, site: str) -> bool:
        """Whether the job takes room at this site, or is about to."""
        record = self._ledger.record
        held = site in self.granted and site not in record.refusals
        return held and not record.state.terminal and self.parts[site].state != "stopped"

    def set(self, site: str, state: str, reason: str = "") -> None:
        """A site is somewhere else now."""
        self.parts[site] = SitePart(state=state, reason=reason, since=self._clock.now())
        self._ledger.changed()

    def note_waiting(self, reasons: Mapping[str, str]) -> None:
        """Why a queued job cannot use these sites."""
        for site, reason in reasons.items():
            if self.parts[site].reason != reason:
                self.set(site, "waiting", reason)

    def note_progress(self, site: str, step: int) -> None:
        """How far the site's task is, by its own word."""
        if self.parts[site].state in ("ready", "training"):
            at = f"{self._clock.now():%H:%M:%S} UTC"
            text = f"round {self._ledger.record.round + 1}, step {step}, at {at}"
            self.parts[site] = replace(self.parts[site], progress=text)

    def miss_all(self) -> None:
        """After a restart: every member that is not here is away since now."""
        now = self._clock.now()
        self.away = {site: now for site in self._ledger.record.members if site not in self._sessions}

    def miss(self, site: str) -> None:
        """The site is waited for since now."""
        self.away.setdefault(site, self._clock.now())

    def came(self, site: str) -> None:
        """The site has a control stream."""
        self.away.pop(site, None)

    def went(self, site: str) -> None:
        """The site has none any more."""
        if site in self._ledger.record.members:
            self.away[site] = self._clock.now()
        self.set(site, "absent", "connection lost")

    # ---- what they are told --------------------------------------------------------------

    def send(self, site: str, message: pb.ToSite) -> bool:
        """Send to one site; false when it is not connected (it is told when it comes back)."""
        try:
            self._sessions.send(site, message)
        except SiteUnavailable:
            return False
        return True

    def deploy(self, site: str, app_size: int) -> None:
        """Tell a site to get ready; telling it again does no harm."""
        record = self._ledger.record
        if site in record.refusals:
            self.set(site, "refused", record.refusals[site])
            return
        message = pb.Deploy(
            job_id=record.id,
            submission=record.submission.encode(),
            signature=bytes.fromhex(record.signature),
            chain=record.chain.encode(),
            app_size=app_size,
        )
        if self.send(site, pb.ToSite(deploy=message)):
            self.set(site, "deploying")
        else:
            self.set(site, "absent", "not connected")

    def order(self, site: str, order: pb.TaskOrder) -> None:
        """Give a site its task."""
        if self.send(site, pb.ToSite(task=order)):
            self.set(site, "training")

    def acknowledge(self, site: str, task_id: str, refused: str = "") -> None:
        """Tell a site that its answer is on our disk, or why it was not taken."""
        ack = pb.AnswerAck(job_id=self._ledger.record.id, task_id=task_id)
        if refused:
            ack.refused.CopyFrom(pb.Failure(code="update-refused", message=refused))
        self.send(site, pb.ToSite(ack=ack))

    def close_round(self, number: int, sites: Iterable[str]) -> None:
        """Tell sites that a round is saved and what they kept for it may go."""
        message = pb.ToSite(closed=pb.RoundClosed(job_id=self._ledger.record.id, round=number))
        for site in sites:
            self.send(site, message)

    def stop(self, site: str) -> bool:
        """Tell a site to end the job there."""
        record = self._ledger.record
        why = record.reason or record.outcome or "finished"
        grace = record.spec.resources.grace_seconds
        stop = pb.StopJob(job_id=record.id, reason=why, grace_seconds=grace)
        return self.send(site, pb.ToSite(stop=stop))
