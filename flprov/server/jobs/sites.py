# SPDX-License-Identifier: Apache-2.0
"""A job's sites: how far each is, who is away or stands still since when, and the messages to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flprov._base import Clock
from flprov.errors import SiteUnavailable
from flprov.server.foreign import foreign_line
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.patience import Pace, Still, in_words
from flprov.server.records import BlobRef
from flprov.server.sessions import Sessions
from flprov.wire import pb

_AT_WORK = frozenset({"deploying", "ready", "training", "stalled"})
_DEPLOYED = _AT_WORK - {"deploying"}
_LONGEST_DOING = 120  # characters
_MOST = 1 << 53  # steps or bytes; what JSON's readers take for whole numbers


@dataclass(frozen=True, kw_only=True)
class SitePart:
    """How far a site is with this job."""

    # waiting, deploying, ready, training, stalled, refused, absent, stopping, stopped
    state: str = "waiting"
    reason: str = ""
    since: datetime | None = None
    progress: str = ""  # in words
    progress_at: datetime | None = None  # when that was heard
    deployed_at: datetime | None = None  # since when its process is up
    step: int = 0
    doing: str = ""
    bytes_done: int = 0
    bytes_total: int = 0


class JobSites:
    """Memory only: after a restart of the server it is learned again from the sites."""

    def __init__(self, ledger: JobLedger, sessions: Sessions, clock: Clock) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._clock = clock
        self.parts = {site: SitePart() for site in ledger.record.targets}
        # Sites that the scheduler gave to this job; what is written down of it is record.granted.
        self.granted = {*ledger.record.granted, *ledger.record.members}
        self.turn = 0  # grows whenever the job may hold other sites than before
        self.away: dict[str, datetime] = {}  # members without a control stream
        self._paces: dict[str, Pace] = {}

    # ---- what is known -------------------------------------------------------------------

    def in_state(self, *states: str) -> list[str]:
        """The sites in one of these states."""
        return [site for site, part in self.parts.items() if part.state in states]

    @property
    def lacking(self) -> tuple[str, ...]:
        """Sites that the job is for and that the scheduler has not given it yet."""
        record = self._ledger.record
        known = self.granted | record.refusals.keys()
        return tuple(site for site in record.targets if site not in known)

    def holds(self, site: str) -> bool:
        """Whether the job takes room at this site, or is about to."""
        record = self._ledger.record
        held = site in self.granted and site not in record.refusals and site not in record.proofs
        return held and not record.state.terminal and self.parts[site].state != "stopped"

    def grant(self, sites: Iterable[str]) -> None:
        """The scheduler has given these sites to the job."""
        self.granted |= set(sites)
        self.turn += 1

    def ungrant(self, site: str) -> None:
        """The site is not the job's any more."""
        self.granted.discard(site)
        self.turn += 1

    def set(self, site: str, state: str, reason: str = "") -> None:
        """A site is somewhere else now."""
        part, now = self.parts[site], self._clock.now()
        self.turn += "stopped" in (part.state, state)
        deployed = (part.deployed_at or now) if state in _DEPLOYED else None
        self.parts[site] = SitePart(state=state, reason=reason, since=now, deployed_at=deployed)
        self._ledger.changed()

    def note_waiting(self, reasons: Mapping[str, str]) -> None:
        """Why a queued job cannot use these sites."""
        for site, reason in reasons.items():
            part = self.parts[site]
            free = part.state == "waiting" or (part.state == "absent" and site not in self.granted)
            if free and part.reason != reason:
                self.set(site, "waiting", reason)

    def note_progress(self, site: str, said: pb.Progress) -> bool:
        """How far the site is, by its own word; whether it has moved since it said so last."""
        part = self.parts[site]
        if part.state not in _AT_WORK:
            return False
        now, doing = self._clock.now(), foreign_line(said.doing, _LONGEST_DOING)
        step = said.step or (part.step if doing else 0)
        moved = (step, doing, said.bytes_done) != (part.step, part.doing, part.bytes_done)
        done, total = (min(number, _MOST) for number in (said.bytes_done, said.bytes_total))
        text = in_words(self._ledger.record.round, min(step, _MOST), doing, done, total)
        if part.state == "stalled":
            part = replace(part, state="training" if site in self._ledger.record.members else "deploying")
        self.parts[site] = replace(
            part,
            progress=f"{text}, at {now:%H:%M:%S} UTC",
            progress_at=now,
            step=min(step, _MOST),
            doing=doing,
            bytes_done=done,
            bytes_total=total,
        )
        if moved:
            self._pace(site).move(now, text, stepped=step != part.step and not doing)
        return moved

    def note_moved(self, site: str) -> None:
        """The site fetches or sends bytes of this job, as we see ourselves."""
        if site in self._paces and self.parts[site].state in _AT_WORK:
            pace = self._paces[site]
            pace.move(self._clock.now(), pace.seen, stepped=False)

    def still(self) -> dict[str, Still]:
        """Connected sites that are at work, and since when each has not moved."""
        absence = timedelta(seconds=self._ledger.record.spec.sites.absence_seconds)
        working = [site for site in self.in_state("deploying", "training") if site in self._paces]
        found = {site: self._paces[site].still(site, absence) for site in working}
        return {site: still for site, still in found.items() if still is not None}

    def _pace(self, site: str) -> Pace:
        if site not in self._paces:
            self._paces[site] = Pace(moved_at=self._clock.now(), seen="")
        return self._paces[site]

    def _begin(self, site: str, state: str, seen: str, *, judged: bool) -> None:
        self.set(site, state)
        self._pace(site).begin(self._clock.now(), seen, judged=judged)

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

    def went(self, site: str, reason: str = "") -> None:
        """The site has none any more."""
        if site in self._ledger.record.members:
            self.away[site] = self._clock.now()
        if self.parts[site].state != "stopped":  # that is proven, whether or not it is here
            self.set(site, "absent", reason or "connection lost")

    # ---- what they are told --------------------------------------------------------------

    def send(self, site: str, message: pb.ToSite, *, urgent: bool = True) -> bool:
        """Send to one site; false when it is not connected (it is told when it comes back)."""
        try:
            self._sessions.send(site, message, urgent=urgent)
        except SiteUnavailable:
            return False
        return True

    def deployment(self, app_size: int, model_size: int = 0, app: bytes = b"") -> pb.ToSite:
        """What a site is told to get ready: the same to all, who are named in it, so that it is made once."""
        record = self._ledger.record
        message = pb.Deploy(
            job_id=record.id,
            submission=record.submission.encode(),
            signature=bytes.fromhex(record.signature),
            chain=record.chain.encode(),
            app_size=app_size,
            model_size=model_size,
            app=app,
        )
        return pb.ToSite(deploy=message)

    def deploy(self, site: str, order: pb.ToSite) -> None:
        """Tell a site to get ready; telling it again does no harm."""
        refusals = self._ledger.record.refusals
        if site in refusals:
            self.set(site, "refused", refusals[site])
            return
        if self.send(site, order):
            self._begin(site, "deploying", "no answer to Deploy", judged=True)
        else:
            self.set(site, "absent", "not connected")

    def order(self, site: str, order: pb.TaskOrder) -> None:
        """Give a site its task."""
        if self.send(site, pb.ToSite(task=order)):
            self._begin(site, "training", "no step yet", judged=False)

    def foretell(self, site: str, model: BlobRef) -> None:
        """Tell a site which model it will probably be given next, for it to fetch meanwhile."""
        payload = pb.Payload(digest=model.digest, size=model.size)
        self.send(site, pb.ToSite(upcoming=pb.Upcoming(job_id=self._ledger.record.id, model=payload)))

    def acknowledge(
        self, site: str, task_id: str, refused: str = "", hint: str = "", *, late: bool = False
    ) -> None:
        """Tell a site that its answer is on our disk, or why it was not taken.

        It keeps the answer until the round is saved, and so does not wait to hear that it was taken.
        """
        ack = pb.AnswerAck(job_id=self._ledger.record.id, task_id=task_id, late=late)
        if refused:
            ack.refused.CopyFrom(pb.Failure(code="update-refused", message=refused, hint=hint))
        self.send(site, pb.ToSite(ack=ack), urgent=bool(refused))

    def close_round(self, number: int, sites: Iterable[str]) -> None:
        """Tell sites that a round is saved and what they kept for it may go; soonest with their next task."""
        message = pb.ToSite(closed=pb.RoundClosed(job_id=self._ledger.record.id, round=number))
        for site in sites:
            self.send(site, message, urgent=False)

    def stop(self, site: str) -> bool:
        """Tell a site to end the job there."""
        record = self._ledger.record
        why = record.reason or record.outcome or "finished"
        grace = record.spec.resources.grace_seconds
        stop = pb.StopJob(job_id=record.id, reason=why, grace_seconds=grace)
        return self.send(site, pb.ToSite(stop=stop))
