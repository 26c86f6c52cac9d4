# SPDX-License-Identifier: Apache-2.0
"""One job's run: an inbox of events, handled one at a time.

    queued -> deploying -> running -> finishing -> completed | degraded | failed
      any of these -> aborting -> aborted

An event changes what is known (membership, answers, conduct, ending); then the job moves on as far as
its state lets it. What many sites say at once is one step: their updates share a sync of the disk. What must
survive is in the ledger before anybody hears of it; who is ready and who is away is learned again from the
sites after a restart of the server.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flprov._base import Tasks, backoff
from flprov.errors import FlprovError, LocalError
from flprov.jobs import JobState
from flprov.server.jobs import events as ev
from flprov.server.jobs.answers import Answers
from flprov.server.jobs.conduct import Conduct
from flprov.server.jobs.ending import Ending, settle_future
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.membership import Membership
from flprov.server.jobs.rounds import Rounds
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.surroundings import Parts, Surroundings
from flprov.server.jobs.workflow import Workflow
from flprov.server.records import JobRecord, UpdateRecord
from flprov.wire import pb

logger = logging.getLogger(__name__)

_FROM_MANY = frozenset({ev.SiteDeployed, ev.SiteStopped, ev.SiteUpdated, ev.SiteFailed, ev.SiteLate})
_MOST_WAITING = 100  # events; beyond it, who tells of more has to wait


class JobRun:
    """Decides what each event means for its job."""

    def __init__(self, record: JobRecord, around: Surroundings, known: dict[str, UpdateRecord]) -> None:
        self._around = around
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._taken = asyncio.Event()  # set whenever the inbox has become shorter
        self._over = record.state.terminal and not record.unconfirmed
        self._tasks = Tasks(f"job {record.id}")
        self._looking = False  # MoveOn is in the inbox
        self._ledger = JobLedger(record, store=around.store, clock=around.clock, on_change=around.on_change)
        self.workflow = Workflow(
            job_id=record.id,
            folder=around.folder / record.id / "workflow",
            launcher=around.launcher,
            blobs=around.blobs,
            unconfined=around.unconfined,
            tell=self.tell,
            hear=self.hear,
            log_grew=lambda: around.log_grew(record.id),
        )
        self.sites = JobSites(self._ledger, around.sessions, around.clock)
        self.rounds = Rounds(record, self.workflow, around.clock, known)
        self._parts = parts = Parts(
            around=around,
            ledger=self._ledger,
            workflow=self.workflow,
            sites=self.sites,
            rounds=self.rounds,
            tell=self.tell,
            tasks=self._tasks,
        )
        self._ending = Ending(parts)
        self._membership = Membership(parts, self._ending)
        self._answers = Answers(parts)
        self._conduct = Conduct(parts, self._ending, self._membership, self._answers)
        self._tries = backoff()
        self._failures = 0  # of the disk, one after the other
        self._put_off: list[ev.Event] = []  # until the disk takes them
        self._trying = 0  # how many of these are being tried once more
        self._timer: asyncio.TimerHandle | None = None

    # ---- from outside --------------------------------------------------------------------

    @property
    def record(self) -> JobRecord:
        """The job as it is written down."""
        return self._ledger.record

    @property
    def active(self) -> bool:
        """Whether sites are to run it."""
        return self.record.active

    @property
    def doing(self) -> str:
        """What the workflow says that it does, while the job runs."""
        return self._parts.doing if self.record.state is JobState.RUNNING else ""

    def tell(self, event: ev.Event) -> None:
        """Put an event into the inbox; nobody hears it once the run is over."""
        if not self._over:
            self._inbox.put_nowait(event)

    async def hear(self, event: ev.Event) -> None:
        """`tell`, for what a site says: whoever says it faster than it is handled has to wait."""
        while self._waiting >= _MOST_WAITING and not self._over:
            self._taken.clear()
            await self._taken.wait()
        self.tell(event)

    @property
    def _waiting(self) -> int:
        """How many events are still to be handled, beside those that the inbox gave out last."""
        return self._inbox.qsize() + len(self._put_off) + self._trying

    def choose(self, sites: tuple[str, ...]) -> None:
        """The scheduler starts this job at these sites."""
        self.sites.grant(sites)
        self.tell(ev.Chosen())

    def note_queued(self, reason: str, sites: Mapping[str, str]) -> None:
        """Why it waits in the queue, in all and site by site; telemetry."""
        if self.record.state in (JobState.QUEUED, JobState.DEPLOYING):
            self.sites.note_waiting(sites)
            self._ledger.note(reason=reason)

    def note_progress(self, site: str, said: pb.Progress) -> None:
        """How far a site is, by its own word; telemetry."""
        if not self.sites.note_progress(site, said):
            return
        self._around.on_progress(self.record.id)
        if self.active and self.record.reason and not self._looking:
            self._looking = True  # the reason may be that it did not move
            self.tell(ev.MoveOn())

    async def run(self) -> None:
        """Handle events until the job has ended and every site has confirmed it."""
        try:
            await self._take([ev.TakenUp()])
            while not (self.record.state.terminal and not self.record.unconfirmed):
                waiting = [await self._inbox.get()]
                while not self._inbox.empty():
                    waiting.append(self._inbox.get_nowait())
                self._taken.set()
                await self._take(waiting)
        finally:
            self._over = True
            self._taken.set()

    async def _take(self, waiting: Iterable[ev.Event]) -> None:
        """Handle what waits in the inbox, until the job has ended: nobody hears what came after that."""
        for together in _together(waiting):
            if isinstance(together[0], ev.TryAgain):
                await self._try_again()
            elif self._waits_its_turn(together):
                self._put_off += together
            elif not (self.record.state.terminal and not self.record.unconfirmed):
                await self._handle_or_fail(together)

    def _waits_its_turn(self, events: Sequence[ev.Event]) -> bool:
        """What the workflow said after something that the disk did not take is heard after that."""
        of_workflow = isinstance(events[0], ev.WorkflowSaid)
        return of_workflow and any(isinstance(put, ev.WorkflowSaid) for put in self._put_off)

    async def _handle_or_fail(self, events: Sequence[ev.Event]) -> None:
        """Handle them, and move on. What the disk did not take was not acknowledged, and is tried again."""
        again = events
        try:
            await self._handle(events)
            again = [ev.MoveOn()]  # the events themselves are over
            await self._move_on()
        except LocalError as error:
            self._again(again, error)
        except FlprovError as error:
            logger.warning("job %s: %s", self.record.id, error, exc_info=True)
            await self._fail_of(error)
        except Exception:  # the outermost loop of a job: a fault of ours ends this job and no other
            logger.exception("job %s: %s could not be handled", self.record.id, type(events[0]).__name__)
            fault = LocalError("internal error at the server; its log has the details")
            for event in events:
                if isinstance(event, ev.AbortAsked):
                    settle_future(event.recorded, fault)
            await self._fail_of(fault)
        else:
            self._tries, self._failures = backoff(), 0

    def _again(self, events: Iterable[ev.Event], error: FlprovError) -> None:
        self._failures += 1
        logger.warning("job %s: %s (failure %d)", self.record.id, error, self._failures)
        self._ledger.note(reason=f"{error}; tried again until it works (failure {self._failures})")
        # A site that repeats itself adds nothing.
        self._put_off += [event for event in events if event not in self._put_off]
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(next(self._tries), self._retry)

    def _retry(self) -> None:
        self._timer = None
        self.tell(ev.TryAgain())

    async def _try_again(self) -> None:
        """What was put off, in its order: what comes meanwhile is in the inbox, behind it."""
        events, self._put_off = self._put_off, []
        self._trying = len(events)
        try:
            await self._take(events)
        finally:
            self._trying = 0
            self._taken.set()

    async def close(self) -> None:
        """The server stops: leave processes to their shims and everything else to the store."""
        await self._tasks.close()
        self._parts.arm(None)
        if self._timer is not None:
            self._timer.cancel()

    # ---- life ----------------------------------------------------------------------------

    async def _resume(self) -> None:
        """After a restart of the server: go on where the record says."""
        state = self.record.state
        if state is JobState.QUEUED or state.terminal:
            return
        self.sites.miss_all()
        if self.active:
            self._parts.launch()
            self._parts.deploy(*sorted(self.sites.granted))
        else:
            await self._ending.resume()

    async def _move_on(self) -> None:
        """As far as the state lets it; a step may lead to the next one."""
        before: JobState | None = None
        while before is not self.record.state:
            before = self.record.state
            match before:
                case JobState.DEPLOYING:
                    await self._conduct.begin()
                case JobState.RUNNING:
                    await self._membership.settle()
                case JobState.FINISHING | JobState.ABORTING:
                    await self._ending.maybe_end()

    async def _handle(self, events: Sequence[ev.Event]) -> None:
        updates = [event for event in events if isinstance(event, ev.SiteUpdated)]
        if updates:
            await self._answers.updated(updates)
            return
        deployed = [event for event in events if isinstance(event, ev.SiteDeployed)]
        if deployed and self.active:
            await self._membership.deployed([event for event in deployed if self.sites.holds(event.site)])
        stopped = [event for event in events if isinstance(event, ev.SiteStopped)]
        if stopped and not self.active:
            await self._ending.sites_stopped(stopped)
        for event in events:
            await self._handle_one(event)

    async def _handle_one(self, event: ev.Event) -> None:
        match event:
            case ev.TakenUp():
                await self._resume()
            case ev.Chosen():
                await self._start()
            case ev.Joined() if self.active:
                await self._membership.granted(event.sites)
            case ev.SiteCame():
                self._membership.came(event.site)
            case ev.SiteWent():
                self._membership.went(event.site, event.reason)
                if not self.active:
                    self._ending.lost(event.site)
            case ev.AnswersDue():
                await self._answers.write()
            case ev.SiteLate():
                await self._answers.late(event.site, event.task_id)
            case ev.SiteFailed():
                await self._answers.failed(event)
            case ev.WorkflowSaid() if self.active:
                await self._conduct.said(event.frame)
            case ev.WorkflowGone() if self.active:  # what it said and could not be written down went with it
                self._put_off = [put for put in self._put_off if not isinstance(put, ev.WorkflowSaid)]
                await self._conduct.gone(event)
            case ev.WorkflowStopped():
                self._ending.workflow_stopped(event.processes)
            case ev.Faulted():
                await self._ending.fail("server", event.code, event.message, hint=event.hint)
            case ev.AbortAsked():
                await self._ending.abort(event)
            case ev.LookAgain() if not self.active:
                self._ending.look_again()
            case ev.MoveOn():
                self._looking = False

    async def _start(self) -> None:
        if self.record.state is JobState.QUEUED:
            now, granted = self._around.clock.now(), tuple(sorted(self.sites.granted))
            await self._ledger.step(JobState.DEPLOYING, "", "job.deploy", started_at=now, granted=granted)
            self._parts.launch()
            self._parts.deploy(*granted)

    # ---- the end -------------------------------------------------------------------------

    async def _fail_of(self, error: FlprovError) -> None:
        """The job cannot go on because of something at the server itself."""
        try:
            await self._ending.fail("server", error.code, str(error), hint=error.hint or "")
            await self._move_on()
        except FlprovError as worse:  # the disk is full, say
            again = ev.Faulted(code=error.code, message=str(error), hint=error.hint or "")
            self._again([again], LocalError(f"the end of the job could not be recorded: {worse}"))


def _together(events: Iterable[ev.Event]) -> Iterator[tuple[ev.Event, ...]]:
    """One after the other, save for those that sites have said with nothing between them."""
    for kind, found in itertools.groupby(events, type):
        alike = tuple(found)
        yield from [alike] if kind in _FROM_MANY else ((event,) for event in alike)
