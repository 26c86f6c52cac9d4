# SPDX-License-Identifier: Apache-2.0
"""One job at this site: admitted, deployed, its worker run, its answers kept until the round is saved."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import Clock, Tasks, canonical_json
from flprov.agent.admission import Admitted
from flprov.agent.answers import Answers
from flprov.agent.bulk import Bulk, OnBytes
from flprov.agent.jobrecord import Begun, OpenTasks, blobs_of
from flprov.agent.leases import Leases
from flprov.agent.logs import LogSender
from flprov.agent.points import PointSender
from flprov.agent.promises import Promises
from flprov.agent.redaction import Redactor
from flprov.agent.sitefilters import SiteFilters, describe_rules
from flprov.agent.updates import clear_out, remove_out, take_out, verify_own_update
from flprov.blobs import BlobStore
from flprov.errors import (
    FlprovError,
    JobFailed,
    NotFound,
    PolicyRefused,
    ProtocolError,
    error_class,
)
from flprov.jobs import check_needs, job_needs, unpack_bundle
from flprov.wire import failure_of, pb
from flprov.workers import ExitRecord, Launcher, LaunchOrder, LogSegments, Process, reap_leftovers

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 2000  # of a failure, as the job's process tells it
_LONGEST_TRACEBACK = 64_000
_MOST_PROGRESS = 16 << 10  # bytes
_BYTES_EVERY = 2.0  # seconds; of a transfer
_PROGRESS_EVERY = 0.2  # seconds; what a job says more often is passed over
MOST_TRIES = 3  # of one task, by processes that are killed from outside one after the other
_FAREWELL = 30.0  # seconds in which a process ends that has closed its channel
_LAST_WORD = 0.5  # seconds in which a process takes the word that it is to end, before it is ended


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every job at this site works with."""

    site: str
    clock: Clock
    blobs: BlobStore
    bulk: Bulk
    launcher: Launcher
    leases: Leases
    private: tuple[Path, ...]  # what no job may ever see
    answers: Answers
    tasks: OpenTasks
    promises: Promises
    orphan_seconds: float  # so long a job's process waits for an agent that was killed
    collect: Callable[[set[str]], None]  # blobs that this job needs no more
    report: Callable[[pb.FromSite], None]  # to the server if connected; else dropped, and said again later


@dataclass
class SiteJob:
    """The job's folder, process and open task."""

    job_id: str
    admitted: Admitted
    folder: Path
    tools: Tools
    state: str = "deploying"  # deploying, ready, training, stopping
    models: set[str] = field(default_factory=set)  # blobs that the open task needs: model, and beside it
    taking: set[str] = field(default_factory=set)  # the blob of an update that is not kept yet
    since: datetime | None = None  # when `state` became what it is
    ended: int = 0  # processes that were alive when the job was stopped
    _process: Process | None = None
    _log: LogSender | None = None
    _open: pb.TaskOrder | None = None
    _work: Tasks = field(default_factory=lambda: Tasks("site job"))
    _serial: int = 0
    _fetching: asyncio.Task[None] | None = None
    _up: asyncio.Lock = field(default_factory=asyncio.Lock)
    _handing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stopping: bool = False
    _superseded: set[str] = field(default_factory=set)  # tasks that the server has gone on from
    _sending: set[str] = field(default_factory=set)  # tasks whose answers are on their way
    _tries: int = 1  # how many processes were given the open task, one after the other
    _handed: str = ""  # the task that the process was given over its present channel
    _back: bool = False  # it has not said yet what it does, to an agent that came back
    _repeats: bool = False  # it may say its next answer twice
    _told: float = -_PROGRESS_EVERY  # when progress was last passed on

    def __post_init__(self) -> None:
        self._redactor = Redactor(self.admitted.logs.redact)
        self._points = PointSender(self.tools.bulk, self.job_id, self.tools.clock)
        rules, tools = self.admitted.filters, self.tools
        most = self._max_weight = self.admitted.submission.spec.sites.max_weight
        self._filters = SiteFilters(rules, tools.site, self.job_id, self.folder, tools.blobs, most)

    @property
    def stopped(self) -> bool:
        """Its end was asked for: what fails from then on is nobody's news."""
        return self._stopping

    @property
    def _out(self) -> Path:
        return self.folder / "out"

    # ---- deploy --------------------------------------------------------------------------

    async def deploy(self, app_size: int, model_size: int = 0) -> None:
        """Fetch and unpack the app, check what it needs, start its worker. Raises what stands against it."""
        app = self.admitted.submission.app
        async with self._up:
            self._verify_wanted()
            await self._lease(app_size, model_size)
        await self._fetch(app, app_size, "fetching app")
        async with self._up:
            self._verify_wanted()
            await asyncio.to_thread(self._prepare, app)
            spec = self.admitted.submission.spec
            if needs := job_needs(spec):
                await asyncio.to_thread(_verify_needs, needs, self.admitted.python)
            for line in describe_rules(self.admitted.filters, spec.workflow.rounds):
                await self._note_in_log(f"policy.yml of this site: {line}")
            await self._start()
            self._be("ready")

    async def _lease(self, app_size: int = 0, model_size: int = 0) -> tuple[str, ...]:
        """What the job asks for, or the lease that it has; returns its GPUs."""
        spec = self.admitted.submission.spec
        held = await self.tools.leases.lease(
            self.job_id, spec.resources, name=spec.name, app_size=app_size, model_size=model_size
        )
        return held.gpus

    async def _fetch(self, digest: str, size: int, doing: str) -> None:
        """Bring a blob here; a stop ends it."""
        self._verify_wanted()
        self._fetching = asyncio.create_task(
            self.tools.bulk.fetch(self.job_id, digest, size, self._teller(doing))
        )
        try:
            await self._fetching
        except asyncio.CancelledError:
            self._verify_wanted()
            raise

    def _verify_wanted(self) -> None:
        if self._stopping:
            raise JobFailed(f"job {self.job_id} was stopped")

    def _prepare(self, app: str) -> None:
        reap_leftovers(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("app", "in", "out", "work"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if name != "app":
                (self.folder / name).mkdir(mode=0o700)
        unpack_bundle(self.tools.blobs.path(app), self.folder / "app")

    async def _start(self) -> None:
        admitted, tools = self.admitted, self.tools
        wanted = admitted.submission.spec.resources
        leased = await self._lease()
        self._process = process = await self.tools.launcher.launch(
            LaunchOrder(
                job_id=self.job_id,
                folder=self.folder,
                main="site",
                python=admitted.python,
                readable=tuple(admitted.datasets.values()),
                private=tools.private,
                gpus=leased,
                unconfined=admitted.unconfined,
                grace=wanted.grace_seconds,
                log_limit=admitted.logs.cap,
                orphan_seconds=tools.orphan_seconds,
            )
        )
        self._handed, self._back, self._repeats = "", False, False
        self._log = self._make_log_sender(process.log)
        process.on_log(self._log.grew)
        start = pb.StartSite(
            job_id=self.job_id,
            site=self.tools.site,
            spec=canonical_json(admitted.submission.spec),
            datasets={name: str(path) for name, path in admitted.datasets.items()},
            statistics=canonical_json(admitted.statistics),
            he_secret=admitted.he_secret,
        )
        self._work.spawn(self._listen(process))
        with contextlib.suppress(JobFailed):  # it has ended: who listens to it says so
            await process.channel.send(pb.ToWorker(start_site=start))

    def take_back(self, process: Process, begun: Begun | None) -> None:
        """Go on with a process that an earlier run of the agent has started."""
        self._process, self._back, self._repeats = process, True, True
        self._log = self._make_log_sender(process.log)
        process.on_log(self._log.grew)
        if begun is not None:
            self._open, self._tries = begun.order, begun.tries
            self.models = blobs_of(begun.order)
        self._be("ready" if begun is None else "training")
        self._work.spawn(self._listen(process))

    def _make_log_sender(self, log: Path) -> LogSender:
        return LogSender(
            self.tools.bulk,
            self.job_id,
            log,
            rules=self.admitted.logs,
            redactor=self._redactor,
            clock=self.tools.clock,
        )

    def _be(self, state: str) -> None:
        self.state, self.since = state, self.tools.clock.now()

    # ---- tasks ---------------------------------------------------------------------------

    def order(self, order: pb.TaskOrder) -> None:
        """Do a task. The same order again is answered again, not done again."""
        kept = self.tools.answers.get(self.job_id, order.task_id)
        if kept is not None:
            self.tools.report(pb.FromSite(answer=kept))
        elif self._open is None or self._open.task_id != order.task_id:
            if self._open is not None:
                self._superseded.add(self._open.task_id)
            self._open = order
            self._tries = max(1, self.tools.tasks.tries(self.job_id, order.task_id))
            self._work.spawn(self._hand_over(order))

    async def _hand_over(self, order: pb.TaskOrder) -> None:
        try:
            if order.name in self.admitted.refused_tasks:
                raise PolicyRefused(f"the policy of this site refuses task {order.name!r}")
            self._filters.verify_task(order)
            if order.expects:
                rounds = self.admitted.submission.spec.workflow.rounds
                self.tools.promises.verify_left(self.job_id, self.admitted.filters, rounds)
            task = pb.TaskOrder()
            task.CopyFrom(order)
            await self._fetch_tensors(order)
            async with self._handing:  # a task that came as its process was killed is handed over twice
                if self._open is not order or (self._process is not None and self._handed == order.task_id):
                    return
                self._clear_in()
                if order.model.size and self._filters.on_tasks:
                    path = self._place_in()
                    task.model.CopyFrom(await asyncio.to_thread(self._filters.write_model, order, path))
                else:
                    self._lay_in(task.model)
                self._lay_in(task.extra)
                async with self._up:
                    self._verify_wanted()
                    if self._process is None:
                        await asyncio.to_thread(clear_out, self._out)
                        await self._start()
                await self.tools.tasks.begin(self.job_id, order, tries=self._tries)
                await self._tell_process(order, task)
        except FlprovError as error:
            await self._answer_failure(order, failure_of(error))

    async def _tell_process(self, order: pb.TaskOrder, task: pb.TaskOrder) -> None:
        """Hand the task over, once."""
        process = self._process
        if process is None or self._open is not order or self._handed == order.task_id:
            return
        self._handed = order.task_id
        self._be("training")
        with contextlib.suppress(JobFailed):  # it has ended: who listens to it says so, or begins again
            await process.channel.send(pb.ToWorker(task=task))

    async def _fetch_tensors(self, order: pb.TaskOrder) -> None:
        """Bring here what did not come with the task; it is named first, so that it stays."""
        older, self.models = self.models, blobs_of(order)
        self.tools.collect(older)
        for payload, doing in ((order.model, "fetching model"), (order.extra, "fetching tensors")):
            if payload.digest:
                await self._fetch(payload.digest, payload.size, doing)

    def _lay_in(self, payload: pb.Payload) -> None:
        """Put a blob of a task where the job's process can read it, and say there where that is."""
        if payload.digest:
            path = self._place_in()
            self.tools.blobs.link(payload.digest, path)
            payload.CopyFrom(pb.Payload(file=path.name, size=payload.size))

    def _place_in(self) -> Path:
        """A new file's path in the folder that the job's process reads from."""
        self._serial += 1
        return self.folder / "in" / f"{self._serial:06d}.safetensors"

    def _clear_in(self) -> None:
        """What an earlier task brought goes; whoever is at it has it mapped."""
        for old in (self.folder / "in").iterdir():
            old.unlink(missing_ok=True)

    # ---- what the worker says ------------------------------------------------------------

    async def _listen(self, process: Process) -> None:
        reason = ""
        try:
            while (frame := await process.channel.receive()) is not None:
                await self._worker_said(frame)
        except FlprovError as error:
            reason = str(error)
        record = await self._see_off(process, _LAST_WORD if reason else _FAREWELL)
        if self._process is process:
            self._process = None
        if self._stopping:
            return
        if record.outside and not record.remaining:
            await self._begin_again(record.reason)
        elif self._open is not None:
            why = reason or f"the job's process ended: {record.reason}"
            await self._answer_failure(self._open, pb.Failure(code="job-failed", message=why))

    async def _see_off(self, process: Process, seconds: float) -> ExitRecord:
        """How a process ended that says nothing more. One that was killed in the middle of a word ends by
        itself; who goes on without a channel is ended.
        """
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            await process.stop(self.admitted.submission.spec.resources.grace_seconds)
            return await process.wait()

    async def _begin_again(self, reason: str) -> None:
        """The process was ended by somebody who is neither the job nor us: do the open task once more."""
        what = killed_in_words(reason)
        order = self._open
        if order is None:  # the next task starts a process
            await self._note_in_log(what)
        elif self._tries >= MOST_TRIES:
            last = f"{what}; this was try {self._tries} of {MOST_TRIES}"
            await self._answer_failure(order, pb.Failure(code="job-failed", message=last))
        else:
            self._tries += 1
            note = f"{what}; it is started again (try {self._tries} of {MOST_TRIES})"
            logger.warning("job %s: %s", self.job_id, note)
            await self._note_in_log(note)
            self.say_doing(note)
            await self._hand_over(order)

    def say_doing(self, text: str) -> None:
        """Let the server know, if it is there to be told."""
        task_id = "" if self._open is None else self._open.task_id
        progress = pb.Progress(job_id=self.job_id, task_id=task_id, doing=text)
        self.tools.report(pb.FromSite(progress=progress))

    async def _note_in_log(self, text: str) -> None:
        """A line in the job's log, while no shim writes to it."""
        await asyncio.to_thread(note_in_log, self.folder, text)
        if self._log is not None:
            self._log.grew()

    async def _worker_said(self, frame: pb.FromWorker) -> None:
        kind = frame.WhichOneof("body")
        if kind == "answer":
            await self._worker_answered(frame.answer)
        elif kind == "progress":
            self._worker_progressed(frame.progress)
        elif kind == "resumed":
            self._worker_resumed(frame.resumed.task_id)
        elif kind == "failure" and self._open is not None:
            failure = frame.failure
            await self._answer_failure(self._open, failure)

    def _worker_resumed(self, task_id: str) -> None:
        """What the process is at, or has just done, since before the agent was away."""
        if not self._back:
            raise ProtocolError("the job's process resumed a conversation that had not broken off")
        self._back = False
        order = self._open
        if order is not None and task_id == order.task_id:
            self._handed = task_id
            return
        self._superseded.add(task_id)
        if order is not None and self._handed != order.task_id:  # it was lost on the way
            self._work.spawn(self._hand_over(order))

    def _worker_progressed(self, said: pb.Progress) -> None:
        now = self.tools.clock.monotonic()
        if said.ByteSize() > _MOST_PROGRESS:
            return
        self._points.take(said, self._open)
        if now - self._told < _PROGRESS_EVERY:
            return
        self._told = now
        task_id = "" if self._open is None else self._open.task_id
        # Only numbers and their names: its words would leave past what the policy says of logs.
        progress = pb.Progress(job_id=self.job_id, task_id=task_id, step=said.step, values=said.values)
        self.tools.report(pb.FromSite(progress=progress))

    def _teller(self, doing: str, task_id: str = "") -> OnBytes:
        """Passes on how far a transfer is, every few seconds and at its end: slow links carry this too."""
        begun = told = self.tools.clock.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            now = self.tools.clock.monotonic()
            if now - told >= _BYTES_EVERY or (told > begun and done >= total):
                told = now
                task = task_id or (self._open.task_id if self._open is not None else "")
                said = pb.Progress(job_id=self.job_id, task_id=task, doing=doing)
                said.bytes_done, said.bytes_total = done, total
                self.tools.report(pb.FromSite(progress=said))

        return tell

    async def _worker_answered(self, answer: pb.TaskAnswer) -> None:
        order = self._open
        if answer.task_id in self._superseded:  # done while we were away, and no longer waited for
            self._superseded.discard(answer.task_id)
            remove_out(answer.update.tensors, self._out)
            return
        if order is None or answer.task_id != order.task_id:
            raise ProtocolError("the job answered a task that is not open")
        if self._repeats:
            self._superseded.add(order.task_id)
            self._repeats = False
        if answer.WhichOneof("outcome") == "failure":
            failure = answer.failure
            await self._answer_failure(order, failure)
            return
        update = pb.UpdateMessage()
        update.CopyFrom(answer.update)
        update.ClearField("tensors")
        try:
            update.tensors.CopyFrom(await take_out(answer.update.tensors, self._out, self.tools.blobs))
            self.taking = {update.tensors.digest} - {""}
            await asyncio.to_thread(verify_own_update, update, order, self.tools.blobs, self._max_weight)
            if self._filters.on_results:
                update = await self._filter(update, order)
            await self._answer(order, pb.TaskAnswer(job_id=self.job_id, task_id=order.task_id, update=update))
        except FlprovError as error:
            taken, self.taking = self.taking, set()
            self.tools.collect(taken)
            await self._answer_failure(order, failure_of(error))
        self.taking = set()
        # Not before: if we are killed until then, the process says all this again.
        remove_out(answer.update.tensors, self._out)

    async def _filter(self, update: pb.UpdateMessage, order: pb.TaskOrder) -> pb.UpdateMessage:
        """The update as the site's policy lets it leave; what the process sent is not kept."""
        filtered = await self._filters.filter_update(update, order)
        unfiltered, self.taking = self.taking, {filtered.tensors.digest} - {""}
        self.tools.collect(unfiltered - self.taking)
        return filtered

    async def _answer_failure(self, order: pb.TaskOrder, said: pb.Failure) -> None:
        shown = said.traceback[-2 * _LONGEST_TRACEBACK :] if self.admitted.tracebacks else ""
        known = said.code if error_class(said.code) is not FlprovError else "job-failed"
        failure = pb.Failure(  # masked before it is cut: half a name matches nothing
            code=known,
            message=(await self._redactor.redact(said.message[: 2 * _LONGEST_MESSAGE]))[:_LONGEST_MESSAGE],
            traceback=(await self._redactor.redact(shown))[-_LONGEST_TRACEBACK:],
            hint=(await self._redactor.redact(said.hint[: 2 * _LONGEST_MESSAGE]))[:_LONGEST_MESSAGE],
        )
        await self._answer(order, pb.TaskAnswer(job_id=self.job_id, task_id=order.task_id, failure=failure))

    async def _answer(self, order: pb.TaskOrder, answer: pb.TaskAnswer) -> None:
        if self._open is None or self._open.task_id != order.task_id:
            return  # answered already, or the server has gone on
        self._open = None
        self._be("ready")
        try:
            also = self.tools.tasks.end(self.job_id)
            if order.expects and answer.HasField("update"):
                also += self.tools.promises.count_one(self.job_id, self.admitted.filters)
            await self.tools.answers.keep(answer, round=order.round, also=also)
        except FlprovError:
            self._open = self._open or order  # it is not answered, so that it can be given up
            raise
        self.send_answer(answer)

    def send_answer(self, answer: pb.TaskAnswer) -> None:
        """Send an answer, now or again: its blob first, over bulk; then the word, over control."""
        if answer.task_id not in self._sending:
            self._sending.add(answer.task_id)
            self._work.spawn(self._send_answer(answer))

    async def _send_answer(self, answer: pb.TaskAnswer) -> None:
        try:
            if answer.update.tensors.WhichOneof("where") == "digest":
                telling = self._teller("sending update", answer.task_id)
                await self.tools.bulk.send(self.job_id, answer.update.tensors.digest, telling)
            self.tools.report(pb.FromSite(answer=answer))
        except FlprovError as error:  # the round was saved meanwhile and the blob is gone, or the job is over
            logger.info("job %s, task %s: not sent: %s", self.job_id, answer.task_id, error)
        finally:
            self._sending.discard(answer.task_id)

    # ---- the end -------------------------------------------------------------------------

    async def stop(self, reason: str, grace: float) -> tuple[int, ...]:
        """Kill everything of this job here; returns the pids that are left (none: proof)."""
        self._stopping = True
        self._be("stopping")
        if self._fetching is not None:
            self._fetching.cancel()
        left: tuple[int, ...] = ()
        async with self._up:  # a start that is under way ends first: what was started is then stopped
            process = self._process
        if process is not None:
            await _try_send(process, pb.ToWorker(quit=pb.Quit(reason=reason)))
            left = await process.stop(grace)
            self.ended = (await process.wait()).ended
        await self._work.close()
        await asyncio.gather(self._points.flush(), *([self._log.flush()] if self._log is not None else []))
        if not left:
            older, self.models = self.models, set()
            self.tools.collect(older)
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        return left

    async def leave(self) -> None:
        """The agent restarts: let go of the job's process, which goes on."""
        self._stopping = True
        if self._fetching is not None:
            self._fetching.cancel()
        async with self._up:
            process = self._process
        await self._work.close()
        await self._points.flush()
        if process is not None:
            await process.leave()
        await self._redactor.close()

    async def close(self) -> None:
        """The agent stops: end the job's process; the server will deploy it again."""
        self._stopping = True
        async with self._up:
            process = self._process
        if process is not None:
            await process.stop(self.admitted.submission.spec.resources.grace_seconds)
        await self._work.close()
        await self._points.flush()
        await self._redactor.close()


def killed_in_words(reason: str) -> str:
    """The reason of an exit record whose process was ended from outside, as a sentence's beginning."""
    return reason if reason.startswith("the ") else f"the job's process was {reason}"


def note_in_log(folder: Path, text: str) -> None:
    """A line of ours in the log of the job in `folder`, while no shim writes to it."""
    try:
        log = LogSegments(folder / "log", limit=LaunchOrder.log_limit)
    except OSError:  # no such folder, or a full disk
        return
    log.append(f"[flprov: {text}]\n".encode())
    log.close()


def _verify_needs(needs: tuple[str, ...], python: Path) -> None:
    problems = check_needs(needs, python)
    if problems:
        raise NotFound("; ".join(problems), hint="the site's IT installs packages; a job never does")


async def _try_send(process: Process, message: pb.ToWorker) -> None:
    try:
        async with asyncio.timeout(_LAST_WORD):  # it may not read any more
            await process.channel.send(message)
    except (FlprovError, TimeoutError) as error:
        logger.debug("a job's process is gone already: %s", error)


def refusal_of(error: FlprovError) -> pb.Failure:
    """What the server is told; the hint is for the person who asked."""
    failure = failure_of(error)
    if isinstance(error, PolicyRefused):
        failure.hint = ""  # how to open this site is the site's own matter
    return failure
