# SPDX-License-Identifier: Apache-2.0
"""Session: a site's worker in conversation with its parent, one task at a time.

The script (through `flprov.client`) or `site_main` asks for tasks and answers them. Tasks that
job.yml gives to a function are done in between, while a script waits for its own next one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flprov._base import from_document, parse_json
from flprov.errors import JobFailed, Misuse, ProtocolError, Unavailable
from flprov.messages import Site, StatisticsRules, Task, Tensors, Update, UpdateKind
from flprov.sdk import (
    TORCH,
    Executor,
    NoEnvelope,
    ResultFilter,
    TaskFilter,
    as_tensors,
    build_result_filters,
    build_task_filters,
    describe_filters,
    filter_result,
    filter_task,
    find_envelope,
    is_runtime_task,
    is_torch,
    run_executor,
    run_runtime_task,
    verify_agreed,
)
from flprov.wire import make_room, parse_kinds, pb, read_model
from flprov.workers.failures import describe_failure
from flprov.workers.noting import note_reads, verify_looked
from flprov.workers.payloads import make_payload, open_payload
from flprov.workers.scripts import SIGTERM_STATUS
from flprov.workers.tasks import OpenTask, read_spec, read_task, verify_answer

if TYPE_CHECKING:
    from types import FrameType


class Frames(Protocol):
    """What a session needs of `WorkerChannel`."""

    def send(self, message: pb.FromWorker) -> None: ...
    def receive(self) -> pb.ToWorker | None: ...


class _Interrupted(BaseException):
    """SIGTERM came while the session waited for its parent."""


class Session:
    """One job at one site.

    Attributes:
        spec: the job.
        site: where it runs, with its datasets.
        app: the folder with the job's code.
        open: the task that waits for its answer.
        functions: task name -> what does it; the others are the script's.
        over: no more tasks will come.
        asked: whether the script has ever asked for a task.
    """

    def __init__(self, channel: Frames, folder: Path, start: pb.StartSite) -> None:
        self.job_id = start.job_id
        self.spec = read_spec(start.spec)
        datasets = {name: Path(path) for name, path in start.datasets.items()}
        self.site = Site(
            name=start.site,
            job_id=start.job_id,
            folder=folder / "work",
            datasets=datasets,
            statistics=_read_rules(start.statistics),
            he_secret=start.he_secret,
            tell=self.report,
        )
        self.app = folder / "app"
        self.open: OpenTask | None = None
        self.functions: dict[str, Executor] = {}
        self.over = False
        self.asked = False
        self._channel = channel
        self._folder = folder
        self._task_filters: Sequence[TaskFilter] = ()
        self._result_filters: Sequence[ResultFilter] = ()
        self._envelope = find_envelope(self.spec.workflow.type)
        self._aborted = False
        self._minds = False  # whether the script looks at `aborted` itself
        self._waiting = False
        self._kept: list[pb.FromWorker] = []  # said, and perhaps not heard: the parent has sent nothing since

    # ---- the conversation -----------------------------------------------------------------

    def ready(self) -> None:
        """Tell the parent that tasks can come."""
        self._channel.send(pb.FromWorker(ready=pb.Ready()))

    def greeting(self) -> list[pb.FromWorker]:
        """What a parent is told that has come back: the task that is under way, or was, and its answer."""
        answered = [message.answer.task_id for message in self._kept if message.HasField("answer")]
        doing = [self.open.order.task_id] if self.open is not None else answered
        return [pb.FromWorker(resumed=pb.Resumed(task_id=doing[-1] if doing else "")), *self._kept]

    def load_filters(self) -> None:
        """Find the filters that job.yml names for this side; some may be the app's code. The log says what
        they do.

        Raises:
            ConfigError: one is not there, or does not take its options.
        """
        filters = self.spec.filters
        self._task_filters = build_task_filters(filters.task_site, "filters.task.site")
        self._result_filters = build_result_filters(filters.result_site, "filters.result.site")
        rounds = self.spec.workflow.rounds
        for where, rows in (("task", filters.task_site), ("result", filters.result_site)):
            for line in describe_filters(rows, f"filters.{where}.site", rounds):
                print(f"flprov: filters.{where}.site: {line}")

    def wait_task(self) -> OpenTask | None:
        """The task that the script has not received yet, once there is one; None when the job is over.

        A task that it has received and not answered is given up: the parent hears a failure.
        """
        self.asked = True
        if self._aborted:
            return None
        if self.open is not None and self.open.taken:
            self.fail(JobFailed(f"the next task was asked for before an update was sent for {self.open}"))
        while self.open is None and (order := self._wait_order()) is not None:
            self.begin(order)
        return self.open

    def begin(self, order: pb.TaskOrder) -> None:
        """Open the task; do it, if it is a function's. Whatever fails on the way fails the task."""
        self._kept.clear()  # who says the next thing has heard the last one
        expects = parse_kinds(order.expects)
        self.open = OpenTask(order=order, task=read_task(order, self.spec, self.site.name), takes=expects)
        try:
            source = open_payload(order.model, self._folder)
            params, metadata = self._read(source)
            self.open.format = metadata.get("format", "")
            task = replace(self.open.task, params=params)
            if order.HasField("extra"):
                task = replace(task, extra=self._read(open_payload(order.extra, self._folder))[0])
            if is_runtime_task(task.name):
                self.open.task = task
                verify_agreed(task.name, self.spec.workflow.type, self.spec.workflow.options)
                self.answer(run_runtime_task(task, self.site))
                return
            self.open.takes = self._envelope.takes(expects)
            task = filter_task(self._task_filters, self._envelope.open(task, self.site), self.site)
            self.open.asked = task
            self.open.task = note_reads(self._for_trainer(task), self.open.looked)
            if order.name in self.functions:
                self._run_function(self.open.task, self.functions[order.name])
            elif order.name not in self.spec.tasks:
                raise Misuse(f"the workflow sent task {order.name!r}, which job.yml does not name")
        except Exception as error:  # the job's code runs in here; the next task may go well
            if self.open is None:
                raise  # answered already: the parent is gone
            self.fail(error)

    def answer(self, update: Update) -> None:
        """Send `update` for the open task.

        Raises:
            Misuse: no task is open, or the update is not of a kind that the task takes, has a number
                that is none, or tensors that cannot travel. The task stays open.
            Unavailable: the parent is gone.
        """
        opened = self._require_open()
        seconds = time.monotonic() - opened.began
        params, form = as_tensors(update.params), _format(update)
        update = replace(update, params=params, site=self.site.name)
        update = verify_answer(update, opened, self.spec.sites.max_weight)
        verify_looked(str(opened), opened.order.requires, opened.looked)
        if not is_runtime_task(opened.task.name):
            asked = opened.asked or opened.task
            update = filter_result(self._result_filters, update, asked, self.site)
            update = self._envelope.close(update, asked, self.site)
        message = pb.UpdateMessage(
            kind=update.kind.value,
            tensors=self._payload(update, form),
            samples=update.samples,
            weight=update.weight,
            metrics=update.metrics,
            seconds=seconds,
        )
        self._answer(pb.TaskAnswer(update=message))

    def _payload(self, update: Update, form: str) -> pb.Payload:
        metadata = {"format": form} if form else {}
        marks = {} if update.kind is UpdateKind.OPAQUE else update.encoding
        return make_payload(update.params, metadata, self._folder, encoding=marks)

    def fail(self, error: BaseException) -> None:
        """Give up the open task."""
        self._answer(pb.TaskAnswer(failure=describe_failure(error, self.app)))

    def give_up(self, error: BaseException) -> None:
        """Give up the job at this site: the process ends after this."""
        if self.open is not None:
            self.fail(error)
        self._keep(pb.FromWorker(failure=describe_failure(error, self.app)))

    def report(self, values: Mapping[str, float], step: int | None) -> None:
        """Show progress to whoever watches the job; without a `step`, the reports of a task are counted."""
        task_id, counted = "", step is None
        if self.open is not None:
            self.open.steps += 1
            task_id, step = self.open.order.task_id, self.open.steps if step is None else step
        progress = pb.Progress(job_id=self.job_id, task_id=task_id, values=values, counted=counted)
        progress.step = step or 0
        self._channel.send(pb.FromWorker(progress=progress))

    # ---- its end --------------------------------------------------------------------------

    def aborted(self) -> bool:
        """Whether the job is being stopped. Who asks once is trusted to end by itself, within the grace."""
        self._minds = True
        return self._aborted

    def on_sigterm(self, _number: int, _frame: FrameType | None) -> None:
        """The handler of SIGTERM: no more tasks; end the script unless it looks at `aborted` itself."""
        self._aborted = self.over = True
        if self._waiting:
            raise _Interrupted
        if not self._minds:
            raise SystemExit(SIGTERM_STATUS)

    # ---- within ---------------------------------------------------------------------------

    def _wait_order(self) -> pb.TaskOrder | None:
        """The parent's next task; None when there will be none."""
        if self.over:
            return None
        try:
            self._waiting = True
            message = self._channel.receive()
        except _Interrupted:
            message = None
        finally:
            self._waiting = False
        if message is not None:
            self._kept.clear()  # as in `begin`
        if message is not None and message.WhichOneof("body") == "task":
            return message.task
        self.over = True
        if message is not None and message.WhichOneof("body") != "quit":
            raise ProtocolError(f"a job's process was sent {message.WhichOneof('body')!r}, not a task")
        return None

    def _read(self, source: Path | bytes) -> tuple[Tensors, Mapping[str, str]]:
        """A task's tensors, with their metadata. None may be sparse: nothing here would bound its size."""
        return read_model(source, scratch=self._folder / "out", sparse=False)

    def _for_trainer(self, task: Task) -> Task:
        """The task with tensors of the trainer's own, where an update is compared with those that came.

        Many trainers step in what they were given: then nothing would differ from it, and whatever bounds,
        blurs or leaves out the difference would let the trained weights pass as they are.
        """
        if not self._result_filters and isinstance(self._envelope, NoEnvelope):
            return task
        wanted = {name: (array.dtype, array.shape) for name, array in task.params.items()}
        own = make_room(wanted, self._folder / "out")
        for name, array in task.params.items():
            own[name][...] = array
        return replace(task, params=own)

    def _run_function(self, task: Task, function: Executor) -> None:
        self.answer(run_executor(function, task, self.site, self.spec.tasks[task.name]))

    def _require_open(self) -> OpenTask:
        if self.open is None:
            raise Misuse("an update was sent while no task was open", hint="receive a task first")
        return self.open

    def _answer(self, answer: pb.TaskAnswer) -> None:
        opened = self._require_open()
        answer.job_id, answer.task_id = self.job_id, opened.order.task_id
        self._keep(pb.FromWorker(answer=answer))

    def _keep(self, message: pb.FromWorker) -> None:
        """Send what must not be lost."""
        self._kept.append(message)
        if message.HasField("answer"):
            self.open = None
        self._channel.send(message)


def _read_rules(document: bytes) -> StatisticsRules:
    """What the site's policy says of statistics; the default where its agent says nothing."""
    try:
        return from_document(StatisticsRules, parse_json(document or b"{}"), "statistics")
    except ValueError as error:
        raise ProtocolError(f"the rules that the parent sent cannot be read: {error}") from error


def _format(update: Update) -> str:
    """What the file says of its origin, so that whoever receives it gets torch's tensors back."""
    return TORCH if any(is_torch(value) for value in update.params.values()) else ""


def open_session(channel: Frames, folder: Path) -> Session:
    """The session for the job that the parent starts over `channel`.

    Raises:
        ProtocolError: it starts something else.
        Unavailable: it is gone.
    """
    message = channel.receive()
    if message is None:
        raise Unavailable("the parent of this job has closed the channel")
    if message.WhichOneof("body") != "start_site":
        raise ProtocolError(f"a job's process at a site was sent {message.WhichOneof('body')!r} first")
    return Session(channel, folder, message.start_site)


_current: Session | None = None


def use_session(session: Session | None) -> None:
    """Make `session` the one that `flprov.client` talks through in this process."""
    global _current
    _current = session


def current_session() -> Session | None:
    """The session of this process; None outside a job."""
    return _current
