# SPDX-License-Identifier: Apache-2.0
"""One job's run: an inbox of events, handled one at a time.

    queued -> deploying -> running -> finishing -> completed | degraded | failed
       any of these -> aborting -> aborted

What must survive is in the ledger; who is ready and who is away is learned again from the sites
after a restart of the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flprov._base import Clock, Tasks, canonical_json, to_document
from flprov.blobs import BlobStore
from flprov.errors import FlprovError, LocalError, ProtocolError
from flprov.jobs import JobState
from flprov.server.foreign import CODE, TRACEBACK, foreign_line, foreign_text
from flprov.server.jobs import events as ev
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.rounds import Rounds
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.stopping import Stopping
from flprov.server.jobs.workflow import Workflow, verify_names
from flprov.server.records import JobRecord, UpdateRecord
from flprov.server.sessions import Sessions
from flprov.store import Delete, Put, Row, Store
from flprov.wire import pb
from flprov.workers import Launcher

logger = logging.getLogger(__name__)

_MOST_WAITING = 100  # events; beyond it, who tells of more has to wait


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every job's run works with."""

    clock: Clock
    store: Store
    blobs: BlobStore
    sessions: Sessions
    launcher: Launcher
    folder: Path  # of all jobs
    python: Path
    unconfined: bool
    log_grew: Callable[[str], None]  # told the job's id when the workflow has printed something
    on_change: Callable[[str], None]  # told the job's id after each change that shows
    collect: Callable[[set[str]], None]  # blobs that this job needs no more


class JobRun:
    """Decides what each event means for its job."""

    def __init__(self, record: JobRecord, around: Surroundings, known: dict[str, UpdateRecord]) -> None:
        self._around = around
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._taken = asyncio.Event()  # set whenever the inbox has become shorter
        self._over = record.state.terminal and not record.unconfirmed
        self._tasks = Tasks(f"job {record.id}")
        self._timer: asyncio.TimerHandle | None = None
        self._workflow_ready = False
        self._absences: dict[str, datetime | None] = {}  # site -> since when, as written down last
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
        self._stopping = Stopping(self._ledger, self.sites, self.workflow, around.clock)

    # ---- from outside --------------------------------------------------------------------

    @property
    def record(self) -> JobRecord:
        """The job as it is written down."""
        return self._ledger.record

    @property
    def active(self) -> bool:
        """Whether sites are to run it."""
        return self.record.state in (JobState.DEPLOYING, JobState.RUNNING)

    def tell(self, event: ev.Event) -> None:
        """Put an event into the inbox; nobody hears it once the run is over."""
        if not self._over:
            self._inbox.put_nowait(event)

    async def hear(self, event: ev.Event) -> None:
        """`tell`, for what a site says: whoever says it faster than it is handled has to wait."""
        while self._inbox.qsize() >= _MOST_WAITING and not self._over:
            self._taken.clear()
            await self._taken.wait()
        self.tell(event)

    def choose(self, sites: tuple[str, ...]) -> None:
        """The scheduler starts this job at these sites."""
        self.sites.granted |= set(sites)
        self.tell(ev.Chosen())

    def note_queued(self, reason: str, sites: Mapping[str, str]) -> None:
        """Why it waits in the queue, in all and site by site; telemetry."""
        if self.record.state is JobState.QUEUED:
            self.sites.note_waiting(sites)
            self._ledger.note(reason=reason)

    async def run(self) -> None:
        """Handle events until the job has ended and every site has confirmed it."""
        try:
            await self._resume()
            while not (self.record.state.terminal and not self.record.unconfirmed):
                event = await self._inbox.get()
                self._taken.set()
                await self._handle_or_fail(event)
        finally:
            self._over = True
            self._taken.set()

    async def _handle_or_fail(self, event: ev.Event) -> None:
        try:
            await self._handle(event)
        except FlprovError as error:
            logger.warning("job %s: %s", self.record.id, error, exc_info=True)
            await self._fail_of(error)
        except Exception:  # the outermost loop of a job: a fault of ours ends this job and no other
            logger.exception("job %s: %s could not be handled", self.record.id, type(event).__name__)
            fault = LocalError("internal error at the server; its log has the details")
            if isinstance(event, ev.AbortAsked):
                _settle_future(event.recorded, fault)
            await self._fail_of(fault)

    async def close(self) -> None:
        """The server stops: leave processes to their shims and everything else to the store."""
        await self._tasks.close()
        self._arm(None)

    # ---- life ----------------------------------------------------------------------------

    async def _resume(self) -> None:
        """After a restart of the server: go on where the record says."""
        state = self.record.state
        if state is JobState.QUEUED or state.terminal:
            return
        self.sites.miss_all()
        if self.active:
            self._launch()
            self._deploy(*sorted(self.sites.granted))
        else:
            self._stop_everywhere()
            await self._maybe_end()

    def _launch(self) -> None:
        record = self.record
        self._tasks.spawn(self.workflow.run(record.app, record.spec, self._around.python))

    async def _handle(self, event: ev.Event) -> None:
        match event:
            case ev.Chosen():
                await self._start()
            case ev.Joined() if self.active:
                self.sites.granted |= set(event.sites)
                self._deploy(*event.sites)
            case ev.SiteCame() | ev.SiteWent() | ev.SiteDeployed() | ev.SiteStopped():
                await self._handle_site(event)
            case ev.SiteUpdated():
                await self._site_updated(event)
            case ev.SiteLate():
                self._site_late(event.site, event.task_id)
            case ev.SiteFailed():
                await self._site_failed(event)
            case ev.WorkflowSaid():
                await self._workflow_said(event.frame)
            case ev.WorkflowGone() if self.active:
                await self._fail("workflow", event.code, event.message)
            case ev.WorkflowStopped():
                self._stopping.workflow_ended(event.processes)
                await self._maybe_end()
            case ev.AbortAsked():
                await self._abort(event)
            case ev.LookAgain():
                await self._look_again()

    async def _handle_site(self, event: ev.SiteCame | ev.SiteWent | ev.SiteDeployed | ev.SiteStopped) -> None:
        match event:
            case ev.SiteCame():
                self._site_came(event.site)
            case ev.SiteWent():
                await self._site_went(event.site)
            case ev.SiteDeployed() if self.active and self.sites.holds(event.site):
                await (self._site_ready(event.site) if event.ready else self._site_refused(event))
            case ev.SiteStopped() if not self.active:
                await self._stopping.site_stopped(event.site, clean=event.clean, reason=event.reason)
                await self._maybe_end()

    async def _start(self) -> None:
        if self.record.state is JobState.QUEUED:
            await self._ledger.step(JobState.DEPLOYING, "", "job.deploy", started_at=self._around.clock.now())
            self._launch()
            self._deploy(*sorted(self.sites.granted))
            await self._maybe_begin()

    def _deploy(self, *sites: str) -> None:
        size = self._around.blobs.size(self.record.app)
        for site in sites:
            self.sites.deploy(site, size)

    # ---- sites ---------------------------------------------------------------------------

    def _site_came(self, site: str) -> None:
        self.sites.came(site)
        if self.active and site in self.sites.granted:
            self._deploy(site)
        elif site in self.record.unconfirmed:
            self.sites.stop(site)

    async def _site_went(self, site: str) -> None:
        self.sites.went(site)
        if self.record.state is JobState.DEPLOYING:
            await self._maybe_begin()
        elif self.record.state is JobState.RUNNING:
            if self.rounds.open is not None and site in self.rounds.open.open:
                self.sites.miss(site)  # also one that was never ready: it was asked, and is waited for
            await self._settle()
        else:
            self._stopping.give_up(site)
            await self._maybe_end()

    async def _site_ready(self, site: str) -> None:
        if self.sites.parts[site].state != "deploying":
            return  # nobody asked
        self.sites.set(site, "ready")
        if site not in self.record.members:
            members = tuple(sorted({*self.record.members, site}))
            row = Row(who="server", what="job.ready", object=self._ledger.about(site))
            await self._ledger.save(row, members=members)
        gather = self.rounds.open
        if gather is not None and site in gather.open:
            self.sites.order(site, self.rounds.order())
        await self._maybe_begin()
        await self._settle()  # who returns is not waited for any more

    async def _site_refused(self, event: ev.SiteDeployed) -> None:
        site, reason, record = event.site, event.refusal, self.record
        self.sites.set(site, "refused", reason)
        refusals = {**record.refusals, site: reason}
        row = Row(
            who=site, what="job.deploy", object=self._ledger.about(site), outcome="refused", reason=reason
        )
        await self._ledger.save(
            row,
            refusals=refusals,
            members=tuple(name for name in record.members if name != site),
            causes=self._ledger.causes(site, event.code, reason),
        )
        required = site in record.spec.sites.required
        left = len(record.targets) - len(refusals)
        if required or left < record.quorum:
            need = "it is required" if required else f"{record.quorum} sites are needed, {left} are left"
            await self._fail(site, event.code, f"{site} refused the job: {reason} ({need})", noted=True)
            return
        if self.rounds.open is not None and site in self.rounds.open.open:
            self.rounds.open.lose(site, f"refused the job: {reason}")
            await self.rounds.pass_on(site)
            await self._settle()
        await self._maybe_begin()

    # ---- answers -------------------------------------------------------------------------

    async def _site_updated(self, event: ev.SiteUpdated) -> None:
        site, update = event.site, event.update
        if not (self.active and self.rounds.awaits(update.task_id, site)):
            self._site_late(site, update.task_id)
            return
        gather = self.rounds.open
        assert gather is not None
        await self._around.store.commit(
            [Put("update", update.key, to_document(update))],
            Row(who=site, what="update.accept", object=update.key, data={"samples": update.samples}),
        )
        gather.take(update)
        self.sites.acknowledge(site, update.task_id)
        self.sites.set(site, "ready")
        await self.rounds.pass_on(site)
        await self._settle()

    def _site_late(self, site: str, task_id: str) -> None:
        late = "" if self.rounds.holds(task_id, site) else "the round went on without it"
        self.sites.acknowledge(site, task_id, late)

    async def _site_failed(self, event: ev.SiteFailed) -> None:
        site, message = event.site, event.message
        self.sites.acknowledge(site, event.task_id, message)
        if not (self.active and self.rounds.awaits(event.task_id, site)):
            return
        gather = self.rounds.open
        assert gather is not None
        refused = event.code == "update-refused"
        (gather.refuse if refused else gather.fail)(site, message)
        row = Row(
            who=site,
            what="update.accept" if refused else "task.fail",
            object=f"{self.record.id}/{event.task_id}/{site}",
            outcome="refused" if refused else "failed",
            reason=message,
        )
        causes = self._ledger.causes(site, event.code, message, event.traceback)
        await self._ledger.save(row, causes=causes)
        self.sites.set(site, "ready", message)
        await self.rounds.pass_on(site)
        await self._settle()

    async def _settle(self) -> None:
        """Apply the rule of membership to the open broadcast."""
        if self.record.state is not JobState.RUNNING:
            return
        verdict = self.rounds.judge(self.sites.away)
        if verdict.hopeless:
            await self._fail("server", "job-failed", verdict.waiting, noted=bool(self.record.causes))
            return
        for site, reason in verdict.give_up.items():
            assert self.rounds.open is not None
            self.rounds.open.lose(site, reason)
            self.sites.set(site, "absent", reason)
            await self._note_absence(site, reason)
            await self.rounds.pass_on(site)
        self._ledger.note(reason=verdict.waiting)
        self._arm(verdict.look_again)

    async def _note_absence(self, site: str, reason: str) -> None:
        """Write down, once for each time a site goes away, that the job went on without it."""
        since = self.sites.away.get(site)
        if self._absences.get(site) == since:
            return
        self._absences[site] = since
        message = f"{reason}; the job goes on without it from round {self.record.round + 1}"
        row = Row(
            who=site, what="site.absent", object=self._ledger.about(site), outcome="absent", reason=message
        )
        await self._ledger.save(row, causes=self._ledger.causes(site, "site-unavailable", message))

    def _arm(self, moment: datetime | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if moment is not None:
            delay = max(0.0, (moment - self._around.clock.now()).total_seconds())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tell, ev.LookAgain())

    async def _look_again(self) -> None:
        if self.active:
            await self._settle()
        else:
            self._stopping.give_up()
            await self._maybe_end()

    # ---- the workflow --------------------------------------------------------------------

    async def _maybe_begin(self) -> None:
        record = self.record
        if record.state is not JobState.DEPLOYING:
            return
        ready, deploying = self.sites.in_state("ready"), self.sites.in_state("deploying")
        missing = sorted(set(record.spec.sites.required) - set(ready))
        if deploying or missing or len(ready) < record.quorum:
            wanted = ", ".join(missing or deploying) or f"{record.quorum} sites, {len(ready)} are ready"
            self._ledger.note(reason=f"waiting for {wanted}")
        elif not self._workflow_ready:
            self._ledger.note(reason="starting the workflow")
        else:
            await self._ledger.step(JobState.RUNNING, "", "job.run")
            await self._start_workflow()

    async def _start_workflow(self) -> None:
        record = self.record
        start = pb.StartWorkflow(
            job_id=record.id, spec=canonical_json(record.spec), sites=record.targets, round=record.round
        )
        if record.model is not None:
            start.state.CopyFrom(self.workflow.hand_in(record.model))
        await self.workflow.send(pb.ToWorker(start_workflow=start))

    async def _workflow_said(self, frame: pb.FromWorker) -> None:
        kind = frame.WhichOneof("body")
        if not self.active:
            return
        if kind == "failure":
            failure = frame.failure
            await self._fail(
                "workflow",
                foreign_line(failure.code, CODE) or "job-failed",
                failure.message,
                traceback=foreign_text(failure.traceback, TRACEBACK),
            )
        elif kind == "ready":
            self._workflow_ready = True
            if self.record.state is JobState.RUNNING:
                await self._start_workflow()
            else:
                await self._maybe_begin()
        elif kind == "broadcast":
            await self._broadcast(frame.broadcast)
        elif kind == "close":
            await self._close_round(frame.close)
        elif kind == "finished":
            await self._finish(frame.finished)

    def _verify_round(self, number: int) -> None:
        if number != self.record.round:
            raise ProtocolError(
                f"the workflow is in round {number}, and the job in round {self.record.round}"
            )

    async def _broadcast(self, frame: pb.Broadcast) -> None:
        self._verify_round(frame.round)
        gather = await self.rounds.begin(frame, self.record.refusals)
        for site in gather.open:
            part = self.sites.parts[site]
            if part.state in ("ready", "training"):
                self.sites.order(site, self.rounds.order())
            elif part.state != "deploying" and site not in self.sites.away:
                gather.lose(site, part.reason or "not connected since the job began")
                await self.rounds.pass_on(site)
        await self._settle()

    async def _close_round(self, frame: pb.CloseRound) -> None:
        self._verify_round(frame.round)
        used = self._blobs()
        updates = self.rounds.updates()
        model = await self.workflow.take_out(frame.state)
        closed = self.rounds.close(frame)
        sites = len(closed.contributors)
        await self._ledger.save(
            Row(who="server", what="round.close", object=closed.key, data={"sites": sites}),
            Put("round", closed.key, to_document(closed)),
            *(Delete("update", update.key) for update in updates),
            round=frame.round + 1,
            model=model,
            degraded=self.record.degraded or bool(closed.absent or closed.refused),
            reason="",
        )
        await self.workflow.send(pb.ToWorker(saved=pb.RoundSaved(round=frame.round)))
        self.workflow.drop_inputs()
        self.sites.close_round(frame.round, self.record.members)
        self._around.collect(used)

    async def _finish(self, frame: pb.Finished) -> None:
        verify_names(frame.results)
        results = {name: await self.workflow.take_out(payload) for name, payload in frame.results.items()}
        outcome = JobState.DEGRADED if self.record.degraded else JobState.COMPLETED
        await self._ledger.step(JobState.FINISHING, "", "job.finish", results=results, outcome=outcome.value)
        self._stop_everywhere()
        await self._maybe_end()

    # ---- the end -------------------------------------------------------------------------

    async def _fail_of(self, error: FlprovError) -> None:
        """The job cannot go on because of something at the server itself."""
        try:
            await self._fail("server", error.code, str(error))
        except FlprovError as worse:  # the disk is full, say: shown, and tried again at the next event
            self._ledger.note(reason=f"the end of the job could not be recorded: {worse}")

    async def _fail(
        self, party: str, code: str, message: str, *, traceback: str = "", noted: bool = False
    ) -> None:
        """End the job as failed; the first cause stays the first."""
        if not self.active:
            return
        message = foreign_line(message)
        causes = self.record.causes if noted else self._ledger.causes(party, code, message, traceback)
        await self._ledger.step(
            JobState.FINISHING, message, "job.fail", outcome=JobState.FAILED.value, causes=causes
        )
        self._stop_everywhere()
        await self._maybe_end()

    async def _abort(self, event: ev.AbortAsked) -> None:
        if not (self.record.state.terminal or self.record.state is JobState.ABORTING):
            reason = event.reason or f"aborted by {event.who}"
            try:
                await self._ledger.step(JobState.ABORTING, reason, "job.abort", who=event.who)
            except FlprovError as error:
                _settle_future(event.recorded, error)
                return
            self._stop_everywhere()
        _settle_future(event.recorded)
        await self._maybe_end()

    def _stop_everywhere(self) -> None:
        self._arm(self._stopping.begin())
        self._tasks.spawn(self._stop_workflow())

    async def _stop_workflow(self) -> None:
        self.tell(ev.WorkflowStopped(processes=await self._stopping.end_workflow()))

    async def _maybe_end(self) -> None:
        record = self.record
        if not self._stopping.done or record.state not in (JobState.FINISHING, JobState.ABORTING):
            return
        used = self._blobs()
        last = JobState.ABORTED if record.state is JobState.ABORTING else JobState(record.outcome)
        await self._ledger.step(
            last,
            record.reason,
            "job.end",
            *(Delete("update", update.key) for update in self.rounds.updates()),
            finished_at=self._around.clock.now(),
            model=None,
        )
        self.rounds.drop()
        self._arm(None)
        await asyncio.to_thread(self.workflow.clear)
        self._around.collect(used)

    def _blobs(self) -> set[str]:
        """What the job's open round and its saved state take of the blob store."""
        model = self.record.model
        return self.rounds.blobs() | ({model.digest} if model and model.digest else set())


def _settle_future(future: asyncio.Future[None], error: FlprovError | None = None) -> None:
    """Answer who waits, if somebody still does."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
