# SPDX-License-Identifier: Apache-2.0
"""One job's run: an inbox of events, handled one at a time, each change written before it shows.

    queued -> deploying -> running -> finishing -> completed | degraded | failed
       any of these -> aborting -> aborted

Everything that must survive is in `record` and in the store; what is in memory only (who is ready,
who is away) is learned again from the sites after a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from flprov._base import Clock, Tasks, canonical_json, to_document
from flprov.blobs import BlobStore
from flprov.errors import FlprovError, SiteUnavailable
from flprov.jobs import JobState, verify_step
from flprov.server import jobevents as ev
from flprov.server.records import JobRecord, UpdateRecord
from flprov.server.rounds import Rounds
from flprov.server.sessions import Sessions
from flprov.server.workflow import Workflow
from flprov.store import Delete, Put, Row, Store
from flprov.wire import pb
from flprov.wire.documents import Cause
from flprov.workers import Launcher

logger = logging.getLogger(__name__)

_CONFIRM_SECONDS = 10.0  # beyond the job's grace, a site that does not confirm a stop is named
_MOST_CAUSES = 50


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


@dataclass(frozen=True, kw_only=True)
class SitePart:
    """How far a site is with this job."""

    state: str = "waiting"  # waiting, deploying, ready, training, refused, absent, stopping, stopped
    reason: str = ""
    since: datetime | None = None
    progress: str = ""


class JobRun:
    """The one writer of a job's record."""

    def __init__(self, record: JobRecord, around: Surroundings, known: dict[str, UpdateRecord]) -> None:
        self.record = record
        self.granted: set[str] = set(record.members)  # sites that the scheduler gave to this job
        self.parts: dict[str, SitePart] = {site: SitePart() for site in record.targets}
        self._around = around
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._away: dict[str, datetime] = {}
        self._tasks = Tasks(f"job {record.id}")
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: datetime | None = None
        self._to_stop: set[str] = set()
        self._workflow_ready = False
        self._workflow_stopped = True
        self.workflow = Workflow(
            job_id=record.id,
            folder=around.folder / record.id / "workflow",
            launcher=around.launcher,
            blobs=around.blobs,
            unconfined=around.unconfined,
            tell=self.tell,
            log_grew=lambda: around.log_grew(record.id),
        )
        self.rounds = Rounds(record, self.workflow, around.clock, known)

    # ---- from outside --------------------------------------------------------------------

    def tell(self, event: ev.Event) -> None:
        """Put an event into the inbox."""
        self._inbox.put_nowait(event)

    @property
    def active(self) -> bool:
        """Whether sites are to run it."""
        return self.record.state in (JobState.DEPLOYING, JobState.RUNNING)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Sites that it is for and that the scheduler has not given it yet."""
        return tuple(s for s in self.record.targets if s not in self.granted | self.record.refusals.keys())

    def holds(self, site: str) -> bool:
        """Whether it takes room at this site, or is about to."""
        held = site in self.granted and site not in self.record.refusals
        return held and not self.record.state.terminal and self.parts[site].state != "stopped"

    def choose(self, sites: tuple[str, ...]) -> None:
        """The scheduler starts this job at these sites."""
        self.granted |= set(sites)
        self.tell(ev.Chosen())

    def note_queued(self, reason: str, sites: Mapping[str, str]) -> None:
        """Why it waits in the queue, in all and site by site; telemetry."""
        if self.record.state is not JobState.QUEUED:
            return
        for site, why in sites.items():
            if self.parts[site].reason != why:
                self.parts[site] = SitePart(state="waiting", reason=why, since=self._around.clock.now())
        self._note(reason)

    async def run(self) -> None:
        """Handle events until the job has ended and every site has confirmed it."""
        await self._resume()
        while not (self.record.state.terminal and not self.record.unconfirmed):
            event = await self._inbox.get()
            try:
                await self._handle(event)
            except FlprovError as error:
                logger.warning("job %s: %s", self.record.id, error, exc_info=True)
                await self._fail("server", error.code, str(error))

    async def close(self) -> None:
        """The server stops: leave processes to their shims and everything else to the store."""
        await self._tasks.close()
        if self._timer:
            self._timer.cancel()

    # ---- life ----------------------------------------------------------------------------

    async def _resume(self) -> None:
        """After a restart of the server: go on where the record says."""
        now = self._around.clock.now()
        state = self.record.state
        if state is JobState.QUEUED or state.terminal:
            return
        self._away = {site: now for site in self.record.members if site not in self._around.sessions}
        if state in (JobState.DEPLOYING, JobState.RUNNING):
            self._launch()
            for site in sorted(self.granted):
                self._deploy(site)
        else:
            self._stop_everywhere()
            await self._maybe_end()

    async def _start(self) -> None:
        if self.record.state is not JobState.QUEUED:
            return
        now = self._around.clock.now()
        await self._step(JobState.DEPLOYING, "", "job.deploy", started_at=now)
        self._launch()
        for site in sorted(self.granted):
            self._deploy(site)
        await self._maybe_begin()

    def _join(self, sites: tuple[str, ...]) -> None:
        if self.active:
            self.granted |= set(sites)
            for site in sites:
                self._deploy(site)

    def _launch(self) -> None:
        self._workflow_stopped = False
        record = self.record
        self._tasks.spawn(self.workflow.run(record.app, record.spec, self._around.python))

    async def _handle(self, event: ev.Event) -> None:
        match event:
            case ev.SiteCame():
                self._site_came(event.site)
            case ev.SiteWent():
                await self._site_went(event.site)
            case ev.SiteDeployed():
                await self._site_deployed(event)
            case ev.SiteUpdated():
                await self._site_updated(event)
            case ev.SiteFailed():
                await self._site_failed(event)
            case ev.SiteProgressed():
                self._site_progressed(event)
            case ev.SiteStopped():
                await self._site_stopped(event)
            case ev.WorkflowSaid():
                await self._workflow_said(event.frame)
            case ev.WorkflowGone():
                if self.active:
                    await self._fail("workflow", event.code, event.message)
            case ev.WorkflowStopped():
                await self._workflow_ended(event)
            case ev.AbortAsked():
                await self._abort(event)
            case ev.LookAgain():
                await self._look_again()
            case ev.Chosen():
                await self._start()
            case ev.Joined():
                self._join(event.sites)

    @property
    def _active(self) -> bool:
        return self.record.state in (JobState.DEPLOYING, JobState.RUNNING)

    # ---- sites ---------------------------------------------------------------------------

    def _set(self, site: str, state: str, reason: str = "", progress: str = "") -> None:
        now = self._around.clock.now()
        self.parts[site] = SitePart(state=state, reason=reason, since=now, progress=progress)
        self._around.on_change(self.record.id)

    def _deploy(self, site: str) -> None:
        if site in self.record.refusals:
            self._set(site, "refused", self.record.refusals[site])
            return
        record = self.record
        message = pb.Deploy(
            job_id=record.id,
            submission=record.submission.encode(),
            signature=bytes.fromhex(record.signature),
            chain=record.chain.encode(),
            app_size=self._around.blobs.size(record.app),
        )
        try:
            self._around.sessions.send(site, pb.ToSite(deploy=message))
        except SiteUnavailable:
            self._set(site, "absent", "not connected")
        else:
            self._set(site, "deploying")

    def _site_came(self, site: str) -> None:
        self._away.pop(site, None)
        if self.active and site in self.granted:
            self._deploy(site)
        elif site in self.record.unconfirmed:
            self._around.sessions.send(site, self._stop_message())

    async def _site_went(self, site: str) -> None:
        if site in self.record.members:
            self._away[site] = self._around.clock.now()
        self._set(site, "absent", "connection lost")
        if site in self._to_stop:
            await self._unconfirm(site)
        elif self.record.state is JobState.DEPLOYING:
            await self._maybe_begin()
        elif self.record.state is JobState.RUNNING:
            await self._settle()

    async def _site_deployed(self, event: ev.SiteDeployed) -> None:
        if not self.active:
            return
        if not event.ready:
            await self._site_refused(event)
            return
        site = event.site
        self._set(site, "ready")
        if site not in self.record.members:
            members = tuple(sorted({*self.record.members, site}))
            await self._save(Row(who="server", what="job.ready", object=self._name(site)), members=members)
        gather = self.rounds.open
        if gather is not None and site in gather.open:
            self._order(site)
        await self._maybe_begin()

    async def _site_refused(self, event: ev.SiteDeployed) -> None:
        site, reason = event.site, event.refusal
        self._set(site, "refused", reason)
        refusals = {**self.record.refusals, site: reason}
        members = tuple(name for name in self.record.members if name != site)
        row = Row(who=site, what="job.deploy", object=self._name(site), outcome="refused", reason=reason)
        await self._save(
            row, refusals=refusals, members=members, causes=self._causes(site, event.code, reason, "")
        )
        required = site in self.record.spec.sites.required
        left = len(self.record.targets) - len(refusals)
        if required or left < self.record.quorum:
            need = "it is required" if required else f"{self.record.quorum} sites are needed, {left} are left"
            await self._fail(site, event.code, f"{site} refused the job: {reason} ({need})", noted=True)
            return
        if self.rounds.open is not None and site in self.rounds.open.open:
            self.rounds.open.lose(site, f"refused the job: {reason}")
            await self.rounds.pass_on(site)
            await self._settle()
        await self._maybe_begin()

    def _order(self, site: str) -> None:
        with contextlib.suppress(SiteUnavailable):
            self._around.sessions.send(site, pb.ToSite(task=self.rounds.order()))
            self._set(site, "training")

    def _site_progressed(self, event: ev.SiteProgressed) -> None:
        part = self.parts[event.site]
        if part.state in ("ready", "training"):
            seen = f"{self._around.clock.now():%H:%M:%S} UTC"
            text = f"round {self.record.round + 1}, step {event.step}, at {seen}"
            self.parts[event.site] = replace(part, progress=text)

    # ---- answers -------------------------------------------------------------------------

    def _acknowledge(self, site: str, task_id: str, refused: str = "") -> None:
        ack = pb.AnswerAck(job_id=self.record.id, task_id=task_id)
        if refused:
            ack.refused.CopyFrom(pb.Failure(code="update-refused", message=refused))
        with contextlib.suppress(SiteUnavailable):
            self._around.sessions.send(site, pb.ToSite(ack=ack))

    async def _site_updated(self, event: ev.SiteUpdated) -> None:
        site, update = event.site, event.update
        if not self.rounds.awaits(update.task_id, site):
            late = "" if self.rounds.holds(update.task_id, site) else "the round went on without it"
            self._acknowledge(site, update.task_id, late)
            return
        gather = self.rounds.open
        assert gather is not None
        await self._around.store.commit(
            [Put("update", update.key, to_document(update))],
            Row(who=site, what="update.accept", object=update.key, data={"samples": update.samples}),
        )
        gather.take(update)
        self._acknowledge(site, update.task_id)
        self._set(site, "ready")
        await self.rounds.pass_on(site)
        await self._settle()

    async def _site_failed(self, event: ev.SiteFailed) -> None:
        site = event.site
        self._acknowledge(site, event.task_id, event.message)
        if not self.rounds.awaits(event.task_id, site):
            return
        gather = self.rounds.open
        assert gather is not None
        if event.code == "update-refused":
            gather.refuse(site, event.message)
        else:
            gather.fail(site, event.message)
        what = "update.accept" if event.code == "update-refused" else "task.fail"
        key = f"{self.record.id}/{event.task_id}/{site}"
        await self._save(
            Row(who=site, what=what, object=key, outcome="refused", reason=event.message),
            causes=self._causes(site, event.code, event.message, event.traceback),
        )
        self._set(site, "ready", event.message)
        await self.rounds.pass_on(site)
        await self._settle()

    async def _settle(self) -> None:
        """Apply the rule of membership to the open broadcast."""
        if self.record.state is not JobState.RUNNING:
            return
        verdict = self.rounds.judge(self._away)
        if verdict.hopeless:
            await self._fail("server", "job-failed", verdict.waiting, noted=bool(self.record.causes))
            return
        for site, reason in verdict.give_up.items():
            assert self.rounds.open is not None
            self.rounds.open.lose(site, reason)
            self._set(site, "absent", reason)
            await self.rounds.pass_on(site)
        self._note(verdict.waiting)
        self._arm(verdict.look_again)

    def _note(self, reason: str) -> None:
        """A reason to wait; telemetry, so it is shown but not written."""
        if reason != self.record.reason:
            self.record = replace(self.record, reason=reason)
            self._around.on_change(self.record.id)

    def _arm(self, moment: datetime | None) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if moment is not None:
            delay = max(0.0, (moment - self._around.clock.now()).total_seconds())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tell, ev.LookAgain())

    async def _look_again(self) -> None:
        if self.record.state in (JobState.FINISHING, JobState.ABORTING):
            for site in sorted(self._to_stop):
                await self._unconfirm(site)
        else:
            await self._settle()

    # ---- the workflow --------------------------------------------------------------------

    async def _maybe_begin(self) -> None:
        if self.record.state is not JobState.DEPLOYING:
            return
        ready = [site for site, part in self.parts.items() if part.state == "ready"]
        deploying = [site for site, part in self.parts.items() if part.state == "deploying"]
        missing = sorted(set(self.record.spec.sites.required) - set(ready))
        if deploying or missing or len(ready) < self.record.quorum:
            wanted = ", ".join(missing or deploying) or f"{self.record.quorum} sites, {len(ready)} are ready"
            self._note(f"waiting for {wanted}")
            return
        if not self._workflow_ready:
            self._note("starting the workflow")
            return
        await self._step(JobState.RUNNING, "", "job.run")
        await self._start_workflow()

    async def _start_workflow(self) -> None:
        record = self.record
        start = pb.StartWorkflow(
            job_id=record.id,
            spec=canonical_json(record.spec),
            sites=record.targets,
            round=record.round,
        )
        if record.model is not None:
            start.state.CopyFrom(self.workflow.hand_in(record.model))
        await self.workflow.send(pb.ToWorker(start_workflow=start))

    async def _workflow_said(self, frame: pb.FromWorker) -> None:
        kind = frame.WhichOneof("body")
        if kind == "failure":
            failure = frame.failure
            await self._fail("workflow", failure.code, failure.message, traceback=failure.traceback)
        elif not self.active:
            return
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

    async def _broadcast(self, frame: pb.Broadcast) -> None:
        gather = await self.rounds.begin(frame, self.record.refusals)
        for site in gather.open:
            state = self.parts[site].state
            if state in ("ready", "training"):
                self._order(site)
            elif state != "deploying" and site not in self._away:
                gather.lose(site, self.parts[site].reason or "not connected since the job began")
                await self.rounds.pass_on(site)
        await self._settle()

    async def _close_round(self, frame: pb.CloseRound) -> None:
        before = self.record.model
        used = self.rounds.blobs() | ({before.digest} if before and before.digest else set())
        updates = self.rounds.updates()
        model = await self.workflow.take_out(frame.state)
        closed = self.rounds.close(frame)
        lacking = bool(closed.absent or closed.refused)
        self.record = record = replace(
            self.record,
            round=frame.round + 1,
            model=model,
            degraded=self.record.degraded or lacking,
            reason="",
        )
        await self._around.store.commit(
            [
                Put("job", record.id, to_document(record)),
                Put("round", closed.key, to_document(closed)),
                *(Delete("update", update.key) for update in updates),
            ],
            Row(
                who="server", what="round.close", object=closed.key, data={"sites": len(closed.contributors)}
            ),
        )
        await self.workflow.send(pb.ToWorker(saved=pb.RoundSaved(round=frame.round)))
        self.workflow.drop_inputs()
        message = pb.ToSite(closed=pb.RoundClosed(job_id=record.id, round=frame.round))
        for site in record.members:
            with contextlib.suppress(SiteUnavailable):
                self._around.sessions.send(site, message)
        self._around.collect(used)
        self._around.on_change(record.id)

    async def _finish(self, frame: pb.Finished) -> None:
        results = {name: await self.workflow.take_out(payload) for name, payload in frame.results.items()}
        outcome = JobState.DEGRADED if self.record.degraded else JobState.COMPLETED
        await self._step(JobState.FINISHING, "", "job.finish", results=results, outcome=outcome.value)
        self._stop_everywhere()
        await self._maybe_end()

    # ---- the end -------------------------------------------------------------------------

    async def _fail(
        self, party: str, code: str, message: str, *, traceback: str = "", noted: bool = False
    ) -> None:
        """End the job as failed; the first cause stays the first."""
        if not self.active:
            return
        causes = self.record.causes if noted else self._causes(party, code, message, traceback)
        await self._step(
            JobState.FINISHING, message, "job.fail", outcome=JobState.FAILED.value, causes=causes
        )
        self._stop_everywhere()
        await self._maybe_end()

    async def _abort(self, event: ev.AbortAsked) -> None:
        if self.record.state.terminal or self.record.state is JobState.ABORTING:
            return
        reason = event.reason or f"aborted by {event.who}"
        await self._step(JobState.ABORTING, reason, "job.abort", who=event.who)
        self._stop_everywhere()
        await self._maybe_end()

    def _stop_everywhere(self) -> None:
        record = self.record
        message = self._stop_message()
        self._to_stop = set()
        for site, part in self.parts.items():
            if part.state in ("refused", "stopped"):
                continue
            try:
                self._around.sessions.send(site, message)
            except SiteUnavailable:
                continue
            self._to_stop.add(site)
            self._set(site, "stopping")
        away = set(record.members) - self._to_stop - set(record.refusals)
        self.record = replace(record, unconfirmed=tuple(sorted(away)))
        self._tasks.spawn(self._stop_workflow())
        patience = record.spec.resources.grace_seconds + _CONFIRM_SECONDS
        self._arm(self._around.clock.now() + timedelta(seconds=patience))

    def _stop_message(self) -> pb.ToSite:
        record = self.record
        why = record.reason or record.outcome or "finished"
        grace = record.spec.resources.grace_seconds
        return pb.ToSite(stop=pb.StopJob(job_id=record.id, reason=why, grace_seconds=grace))

    async def _stop_workflow(self) -> None:
        await self.workflow.send(pb.ToWorker(quit=pb.Quit(reason=self.record.reason or "finished")))
        left = await self.workflow.stop(self.record.spec.resources.grace_seconds)
        self.tell(ev.WorkflowStopped(processes=left))

    async def _workflow_ended(self, event: ev.WorkflowStopped) -> None:
        self._workflow_stopped = True
        if event.processes:
            pids = ", ".join(map(str, event.processes))
            self.record = replace(
                self.record,
                causes=self._causes("server", "local-error", f"processes {pids} could not be killed", ""),
            )
        await self._maybe_end()

    async def _site_stopped(self, event: ev.SiteStopped) -> None:
        site = event.site
        if not event.clean:
            self._set(site, "stopping", event.reason)
            if site in self._to_stop:
                await self._unconfirm(site)
            return
        self._to_stop.discard(site)
        self._set(site, "stopped", event.reason)
        if site in self.record.unconfirmed:
            left = tuple(name for name in self.record.unconfirmed if name != site)
            await self._save(Row(who=site, what="job.stopped", object=self._name(site)), unconfirmed=left)
        await self._maybe_end()

    async def _unconfirm(self, site: str) -> None:
        self._to_stop.discard(site)
        self.record = replace(self.record, unconfirmed=tuple(sorted({*self.record.unconfirmed, site})))
        await self._maybe_end()

    async def _maybe_end(self) -> None:
        state = self.record.state
        if (
            self._to_stop
            or not self._workflow_stopped
            or state not in (JobState.FINISHING, JobState.ABORTING)
        ):
            return
        used = self.rounds.blobs() | ({self.record.model.digest} if self.record.model else set())
        last = JobState.ABORTED if state is JobState.ABORTING else JobState(self.record.outcome)
        await self._step(
            last, self.record.reason, "job.end", finished_at=self._around.clock.now(), model=None
        )
        await asyncio.to_thread(self.workflow.clear)
        self._arm(None)
        self._around.collect(used - {""})

    # ---- writing -------------------------------------------------------------------------

    def _name(self, site: str) -> str:
        return f"{self.record.id}/{site}"

    def _causes(self, party: str, code: str, message: str, traceback: str) -> tuple[Cause, ...]:
        cause = Cause(
            at=self._around.clock.now(), party=party, code=code, message=message, traceback=traceback
        )
        return (*self.record.causes, cause)[:_MOST_CAUSES]

    async def _step(
        self, state: JobState, reason: str, what: str, *, who: str = "server", **changes: object
    ) -> None:
        verify_step(self.record.state, state)
        row = Row(who=who, what=what, object=self.record.id, outcome=state.value, reason=reason)
        await self._save(row, state=state, reason=reason, **changes)

    async def _save(self, row: Row, **changes: object) -> None:
        """Change the record; it is on disk, with its row, when this returns."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        await self._around.store.commit([Put("job", self.record.id, to_document(self.record))], row)
        self._around.on_change(self.record.id)
