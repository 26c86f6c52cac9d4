# SPDX-License-Identifier: Apache-2.0
"""One simulated job: the server's own rounds, between the workflow's process and the hosts of the sites.

    workflow's process <--frames--> SimulatedRun <--frames--> hosts, in which the sites live

What is asked, answered, checked, counted and folded is what it is on a network, by the same code. What a
network needs is not here: nobody is away, nothing is signed, and nothing has to survive a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flprov._base import Clock, Tasks, canonical_json
from flprov.errors import FlprovError, ProtocolError, UpdateRefused
from flprov.jobs import JobState
from flprov.server.foreign import foreign_line
from flprov.server.jobs import events as ev
from flprov.server.jobs.contributions import contributions, lacking
from flprov.server.jobs.gather import Gather
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.rounds import Rounds
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.workflow import Workflow, verify_names
from flprov.server.records import BlobRef, JobRecord, RoundRecord, UpdateRecord
from flprov.server.series import SeriesBook
from flprov.server.sessions import Sessions
from flprov.server.sights.jobs import job_document, round_document
from flprov.server.sights.series import series_head
from flprov.server.simulated.points import Points
from flprov.server.simulated.scratch import ScratchBlobs
from flprov.store import MemoryStore
from flprov.wire import failure_of, pb
from flprov.wire.documents import JobDocument, RoundDocument
from flprov.workers import Launcher

if TYPE_CHECKING:
    from flprov.wire import TensorInfo


@dataclass(frozen=True, kw_only=True)
class SimulatedSurroundings:
    """What a run works with."""

    folder: Path
    blobs: ScratchBlobs
    launcher: Launcher
    clock: Clock
    python: Path
    show: Callable[[], None]  # something has changed that people may want to see
    over: Callable[[], None]  # no round follows; the processes have yet to end


class SimulatedHost(Protocol):
    """A process in which some of the sites live."""

    @property
    def folder(self) -> Path:
        """Where it reads blobs from (in/) and writes updates to (out/)."""
        ...

    @property
    def checks(self) -> bool:
        """Whether our code there has checked the updates that come from it."""
        ...

    def give(self, site: str, order: pb.TaskOrder) -> None:
        """Have a site do a task; the answer comes to `SimulatedRun.answered`."""
        ...

    def forget(self, task_id: str) -> None:
        """Nobody waits for this task any more."""
        ...

    async def run(self) -> None:
        """Serve until `stop`."""
        ...

    async def stop(self, grace: float, reason: str) -> None:
        """End what runs there."""
        ...


class SimulatedRun:
    """Leads one job from its start to its end. An event is handled when the one before it is.

    Attributes:
        rounds: of the workflow, as at a server.
        sites: how far each is.
        closed: the rounds that are over.
        doing: what the workflow says that it does.
        series: the numbers that the job tells.
    """

    def __init__(self, record: JobRecord, around: SimulatedSurroundings) -> None:
        self._around = around
        self._inbox: asyncio.Queue[ev.Event] = asyncio.Queue()
        store = MemoryStore(clock=around.clock)  # nothing is written to it
        self._ledger = JobLedger(record, store=store, clock=around.clock, on_change=lambda _: around.show())
        self.workflow = Workflow(
            job_id=record.id,
            folder=around.folder / "workflow",
            launcher=around.launcher,
            blobs=around.blobs,
            unconfined=True,
            tell=self._inbox.put_nowait,
            hear=self._inbox.put,
            log_grew=lambda: None,
        )
        self.rounds = Rounds(record, self.workflow, around.clock, {})
        self.sites = JobSites(self._ledger, Sessions(), around.clock)
        self.closed: list[RoundRecord] = []
        self._told: list[RoundDocument] = []
        self.doing = ""
        self.series = SeriesBook(around.folder / "series", lambda _: series_head(self.record))
        self._points = Points(record.id, self.series, around.clock)
        self._hosts: dict[str, SimulatedHost] = {}  # by site
        self._laid: dict[tuple[SimulatedHost, str], str] = {}  # blobs that hosts can read -> as which file
        self._models: dict[str, Mapping[str, TensorInfo] | None] = {}  # by task: what its updates have to fit
        self._tasks = Tasks(f"simulated job {record.id}")

    @property
    def blobs(self) -> ScratchBlobs:
        """What its tensors are in."""
        return self._around.blobs

    @property
    def record(self) -> JobRecord:
        """The job."""
        return self._ledger.record

    def document(self) -> JobDocument:
        """The job as people see it now; who gave what, once it has ended."""
        given = contributions(self.record, self.closed) if self.record.state.terminal else ()
        self._told += map(round_document, self.closed[len(self._told) :])  # each once: this is asked often
        return replace(job_document(self, None, given), rounds=tuple(self._told))

    # ---- life ----------------------------------------------------------------------------

    async def run(self, hosts: Mapping[str, SimulatedHost]) -> None:
        """Until the job has ended, however it ends, and its processes with it.

        Args:
            hosts: where each site lives; one that has none refuses the job, for a reason that is known.
        """
        self._hosts = dict(hosts)
        working = list(dict.fromkeys(self._hosts.values()))
        note = self._ledger.note
        note(state=JobState.DEPLOYING, started_at=self._around.clock.now())
        try:
            if not self._fail_if_hopeless():
                self._tasks.spawn(self.workflow.run(self.record.app, self.record.spec, self._around.python))
                for host in working:
                    self._tasks.spawn(host.run())
            while self.record.active:
                await self._handle_or_fail(await self._inbox.get())
            self._around.over()
        finally:
            await self._stop(working)
        record = self.record
        reason = record.reason
        if record.outcome == JobState.DEGRADED.value:
            reason = "; ".join(filter(None, [reason, lacking(record, self.closed)]))
        for site in record.targets:
            self.sites.set(site, "stopped")
        self.series.end(record.id, record.outcome)
        await self.series.close()
        note(state=JobState(record.outcome), reason=reason, finished_at=self._around.clock.now())

    async def _stop(self, hosts: list[SimulatedHost]) -> None:
        """End every process, at the same time."""
        grace, reason = self.record.spec.resources.grace_seconds, self.record.reason or "finished"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):  # it may not read any more
                await self.workflow.send(pb.ToWorker(quit=pb.Quit(reason=reason)))
        await asyncio.gather(self.workflow.stop(grace), *(host.stop(grace, reason) for host in hosts))
        await self._tasks.close()

    async def _handle_or_fail(self, event: ev.Event) -> None:
        try:
            await self._handle(event)
        except FlprovError as error:
            self._fail("server", error.code, str(error), hint=error.hint or "")

    async def _handle(self, event: ev.Event) -> None:
        match event:
            case ev.WorkflowSaid():
                await self._said(event.frame)
            case ev.WorkflowGone():
                self._fail("workflow", event.code, event.message, hint=event.hint)
            case ev.SiteUpdated():
                await self._updated(event.update)
            case ev.SiteFailed():
                await self._failed(event)

    def _fail(self, party: str, code: str, message: str, *, traceback: str = "", hint: str = "") -> None:
        """The job cannot go on; the first cause stays the first."""
        causes = self._ledger.causes(party, code, message, traceback, hint)
        self._end(JobState.FAILED, message, causes=causes)

    def _end(self, outcome: JobState, reason: str, **changes: object) -> None:
        if self.record.active:
            reason = foreign_line(reason)
            self._ledger.note(state=JobState.FINISHING, outcome=outcome.value, reason=reason, **changes)

    # ---- the workflow --------------------------------------------------------------------

    async def _said(self, frame: pb.FromWorker) -> None:
        self.workflow.forget_taken()
        match frame.WhichOneof("body"):
            case "ready":
                await self._start()
            case "broadcast":
                await self._broadcast(frame.broadcast)
            case "withdraw":
                gather = self._asked(frame.withdraw.task_id)
                for host in dict.fromkeys(self._hosts.values()):
                    host.forget(gather.asked.task_id)
                await self.rounds.withdraw(gather)
            case "refuse":
                self._refuse(frame.refuse)
            case "close":
                await self._close_round(frame.close)
            case "finished":
                await self._finish(frame.finished)
            case "progress":
                self._progressed(frame.progress)
            case "failure":
                said = frame.failure
                self._fail("workflow", said.code, said.message, traceback=said.traceback, hint=said.hint)

    async def _start(self) -> None:
        record = self.record
        for site in self._hosts:
            self.sites.set(site, "ready")
        self._ledger.note(state=JobState.RUNNING, members=tuple(sorted(self._hosts)))
        start = pb.StartWorkflow(job_id=record.id, spec=canonical_json(record.spec), sites=record.targets)
        await self.workflow.send(pb.ToWorker(start_workflow=start))

    async def _broadcast(self, frame: pb.Broadcast) -> None:
        gather = await self.rounds.begin(frame, self.record.refusals)
        for site in gather.open:
            host = self._hosts[site]
            order = self.rounds.order(gather, site)
            for payload in (order.model, order.extra) if order.HasField("extra") else (order.model,):
                self._lay_in(host, payload)
            self.sites.set(site, "training")
            host.give(site, order)
        self._fail_if_hopeless(gather)

    def _lay_in(self, host: SimulatedHost, payload: pb.Payload) -> None:
        """Put a blob of a task where the host can read it, once for all its sites."""
        if not payload.digest:
            return
        key = (host, payload.digest)
        if key not in self._laid:
            self._laid[key] = name = f"{payload.digest[:32]}.safetensors"
            self._around.blobs.link(payload.digest, host.folder / "in" / name)
        payload.CopyFrom(pb.Payload(file=self._laid[key], size=payload.size))

    def _asked(self, task_id: str) -> Gather:
        gather = self.rounds.gathers.get(task_id)
        if gather is None:
            raise ProtocolError(f"the workflow spoke of task {ascii(task_id)[:80]}, which it has not sent")
        return gather

    def _refuse(self, frame: pb.Refuse) -> None:
        gather, site = self._asked(frame.task_id), frame.site
        if site not in gather.taken:
            raise ProtocolError(f"the workflow refused an update that {foreign_line(site, 80)} has not sent")
        reason = foreign_line(frame.reason) or "the workflow did not accept it"
        self._ledger.note(causes=self._ledger.causes(site, UpdateRefused("").code, reason))
        gather.refuse(site, reason)
        self._fail_if_hopeless(gather)

    async def _close_round(self, frame: pb.CloseRound) -> None:
        state = await self.workflow.take_state(frame)
        before = self.record.model
        closed = self.rounds.summary(frame, state)
        used = (before.digests if before else set()) | self.rounds.blobs()
        degraded = self.record.degraded or bool(closed.absent or closed.refused)
        self.closed.append(closed)
        self.series.note_round(closed)
        self.rounds.drop()
        self._models.clear()
        self.workflow.settle(state)
        saved = pb.RoundSaved(round=frame.round, model=state.model.digest if state.model else "")
        await self.workflow.send(pb.ToWorker(saved=saved))
        self.workflow.drop_inputs()
        self._clear_away(used - state.digests)
        self._ledger.note(round=frame.round + 1, model=state, degraded=degraded, reason="")

    def _clear_away(self, blobs: set[str]) -> None:
        """Remove what the round has used, and the next one does not need."""
        for host, digest in [key for key in self._laid if key[1] in blobs]:
            (host.folder / "in" / self._laid.pop((host, digest))).unlink(missing_ok=True)
        self._around.blobs.end_round()
        for digest in blobs:
            self._around.blobs.remove(digest)

    async def _finish(self, frame: pb.Finished) -> None:
        verify_names(frame.results)
        results = {name: await self.workflow.keep(payload) for name, payload in frame.results.items()}
        outcome = JobState.DEGRADED if self.record.degraded else JobState.COMPLETED
        self._end(outcome, frame.reason, results=results)

    def _progressed(self, said: pb.Progress) -> None:
        if said.doing:
            self.doing = foreign_line(said.doing, 120)
            self._around.show()
        self._points.tell_workflow(said, self.record.round)

    # ---- the sites -----------------------------------------------------------------------

    def told(self, site: str, said: pb.Progress) -> None:
        """A site's progress."""
        self._points.tell(site, said, self.rounds.gathers.awaiting(site))
        if self.sites.note_progress(site, said):
            self._around.show()

    async def answered(self, site: str, answer: pb.TaskAnswer) -> None:
        """What a site's task has come to; no update goes on that nobody has checked."""
        gather, host = self.rounds.awaited(answer.task_id, site), self._hosts[site]
        if answer.WhichOneof("outcome") == "update":
            try:
                path = _own_file(answer.update.tensors, host.folder / "out")
                if gather is None:  # nobody waits for it any more
                    if path is not None:
                        path.unlink(missing_ok=True)
                    return
                if not host.checks:
                    self._verify(gather, answer.update, path)
                update = self._record(site, gather, answer.update, path)
                self._inbox.put_nowait(ev.SiteUpdated(site=site, update=update))
                return
            except (FlprovError, OSError) as error:
                known = error if isinstance(error, FlprovError) else UpdateRefused(str(error))
                answer.failure.CopyFrom(failure_of(known))
        said = answer.failure
        self._inbox.put_nowait(
            ev.SiteFailed(
                site=site,
                task_id=answer.task_id,
                code=said.code,
                message=foreign_line(said.message),
                traceback=said.traceback,
                hint=said.hint,
            )
        )

    def _verify(self, gather: Gather, update: pb.UpdateMessage, path: Path | None) -> None:
        """Raise UpdateRefused if the update does not fit the task that it answers; as at the server."""
        from flprov.wire import (
            tensor_infos,
            verify_numbers,
            verify_update,
        )  # late: with numpy, for scripts only

        asked, blobs = gather.asked, self._around.blobs
        weight = update.weight if update.HasField("weight") else None
        verify_numbers(update.samples, weight, update.metrics, self.record.spec.sites.max_weight)
        if asked.task_id not in self._models:
            ref = asked.model
            model = blobs.path(ref.digest) if ref.digest else bytes.fromhex(ref.inline)
            self._models[asked.task_id] = tensor_infos(model) if ref.size else None
        verify_update(self._models[asked.task_id], path or update.tensors.inline, update.kind, asked.expects)

    def _record(self, site: str, gather: Gather, update: pb.UpdateMessage, path: Path | None) -> UpdateRecord:
        data = update.tensors.inline
        return UpdateRecord(
            job_id=self.record.id,
            task_id=gather.asked.task_id,
            site=site,
            kind=update.kind,
            tensors=self._around.blobs.park(path) if path else BlobRef(inline=data.hex(), size=len(data)),
            samples=update.samples,
            weight=update.weight if update.HasField("weight") else None,
            metrics=dict(update.metrics),
            seconds=update.seconds,
        )

    async def _updated(self, update: UpdateRecord) -> None:
        gather = self.rounds.awaited(update.task_id, update.site)
        if gather is None:
            return
        gather.take(update)
        self.sites.set(update.site, "ready")
        await self.rounds.pass_on(gather, update.site)

    async def _failed(self, event: ev.SiteFailed) -> None:
        gather = self.rounds.awaited(event.task_id, event.site)
        if gather is None:
            return
        causes = self._ledger.causes(event.site, event.code, event.message, event.traceback, event.hint)
        self._ledger.note(causes=causes)
        refused = event.code == UpdateRefused("").code
        (gather.refuse if refused else gather.fail)(event.site, event.message)
        self.sites.set(event.site, "ready", event.message)
        if not self._fail_if_hopeless(gather):
            await self.rounds.pass_on(gather, event.site)

    def _fail_if_hopeless(self, gather: Gather | None = None) -> bool:
        """End the job if the rule of membership does not let it go on; whether that is so."""
        record, now = self.record, self._around.clock.now()
        if gather is not None:
            verdict = gather.judge({}, now)
            if verdict.hopeless:
                self._end(JobState.FAILED, verdict.waiting)
            return verdict.hopeless
        lost = [site for site in record.spec.sites.required if site in record.refusals]
        left = len(record.targets) - len(record.refusals)
        if not record.refusals or (not lost and left >= record.quorum):
            return False
        site = lost[0] if lost else min(record.refusals)
        need = "it is required" if lost else f"{record.quorum} sites are needed, {left} are left"
        self._end(JobState.FAILED, f"{site} refused the job: {record.refusals[site]} ({need})")
        return True


def _own_file(payload: pb.Payload, folder: Path) -> Path | None:
    """The file that an update's tensors are in; None: they came with it."""
    if payload.WhichOneof("where") != "file":
        return None
    name = payload.file
    if "/" in name or name in ("", ".", ".."):
        raise ProtocolError("the job's process named tensors that are not a file in its own folder")
    return folder / name
