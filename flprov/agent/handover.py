# SPDX-License-Identifier: Apache-2.0
"""A task on its way to the job's process: admitted by the policy, its tensors fetched, laid where job code
can read them, and told once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from flprov._base import Tasks
from flprov.agent.admission import Admitted
from flprov.agent.answering import Answering
from flprov.agent.jobrecord import Begun, blobs_of
from flprov.agent.sitefilters import SiteFilters
from flprov.agent.surroundings import SiteWork
from flprov.blobs import is_digest, verify_digest
from flprov.errors import FlprovError, JobFailed, LocalError, PolicyRefused, ProtocolError
from flprov.wire import failure_of, pb
from flprov.workers import Process

logger = logging.getLogger(__name__)

MOMENT = 0.02  # seconds; a task that is over by then was never worth a record of its own

Fetch = Callable[[str, int, str, str], Awaitable[None]]  # digest, size, what is done in words, base


class HandOver:
    """Hands one job its tasks.

    Args:
        work: how far the job is.
        admitted: what the site has agreed to.
        folder: the job's.
        filters: of the site's policy.
        answering: where a task goes that cannot be handed over.
        tasks: what runs beside.
        fetch: brings a blob here.
        worker: the job's process, which is started when there is none.
    """

    def __init__(
        self,
        work: SiteWork,
        admitted: Admitted,
        folder: Path,
        filters: SiteFilters,
        answering: Answering,
        *,
        tasks: Tasks,
        fetch: Fetch,
        worker: Callable[[], Awaitable[Process | None]],
    ) -> None:
        self._work = work
        self._tools = work.tools
        self._admitted = admitted
        self._in = folder / "in"
        self._filters = filters
        self._answering = answering
        self._tasks = tasks
        self._fetch = fetch
        self._worker = worker
        self._turn = asyncio.Lock()
        self._serial = 0
        self._coming = ""  # the model that was foretold last
        self._prefetching: asyncio.Task[None] | None = None
        self._laid: list[Path] | None = None  # what lies in the folder; None: not known

    def order(self, order: pb.TaskOrder) -> None:
        """Do a task. The same order again is answered again, not done again."""
        work = self._work
        kept = self._tools.answers.get(work.job_id, order.task_id)
        if kept is not None:
            self._tools.report(pb.FromSite(answer=kept))
        elif work.order is None or work.order.task_id != order.task_id:
            if work.order is not None:
                work.superseded.add(work.order.task_id)
            work.superseded.discard(order.task_id)
            work.order = order
            work.tries = max(1, self._tools.tasks.tries(work.job_id, order.task_id))
            self.begin(order)

    def prefetch(self, model: pb.Payload) -> None:
        """Begin to fetch the model that the next task will probably carry; one at a time."""
        work = self._work
        if work.order is not None or model.digest == self._coming or not is_digest(model.digest):
            return
        if self._prefetching is not None:
            self._prefetching.cancel()
        before, self._coming = self._coming, model.digest
        work.models = (work.models - {before}) | {model.digest}  # so that it stays
        self._tools.collect({before} - {""})
        self._prefetching = self._tasks.spawn(self._prefetch(model, work.base))

    async def _prefetch(self, model: pb.Payload, base: str) -> None:
        try:
            await self._fetch(model.digest, model.size, "fetching model", base)
        except FlprovError as error:  # if the task does carry it, it is fetched then
            logger.info("job %s: the next model is not fetched yet: %s", self._work.job_id, error)

    def take_up(self, begun: Begun) -> None:
        """The task that the process is at, since before this agent was started."""
        self._work.order, self._work.tries = begun.order, begun.tries
        self._work.models = blobs_of(begun.order)

    def begin(self, order: pb.TaskOrder) -> None:
        """Hand the open task over, perhaps once more."""
        self._tasks.spawn(self.hand_over(order))

    async def hand_over(self, order: pb.TaskOrder) -> None:
        """The same; what stands against it becomes the answer."""
        try:
            self._verify(order)
            await self._fetch_tensors(order)
            async with self._turn:  # a task that came as its process was killed is handed over twice
                await self._hand_over(order)
        except FlprovError as error:
            await self._fail(order, error)
        except Exception:  # the outermost of its task: a fault of ours must not leave the server waiting
            logger.exception("job %s, task %s: not handed over", self._work.job_id, order.task_id)
            await self._fail(order, LocalError("internal error at the site; its log has the details"))

    async def _fail(self, order: pb.TaskOrder, error: FlprovError) -> None:
        if not self._work.over:  # else it was given up, perhaps for the next run of the agent to do
            await self._answering.fail(order, failure_of(error))

    def _verify(self, order: pb.TaskOrder) -> None:
        admitted = self._admitted
        for payload in (order.model, order.extra):
            _verify_size(payload)
        for digest in blobs_of(order):
            verify_digest(digest)  # before it is remembered as a blob of this job
        if order.name in admitted.refused_tasks:
            raise PolicyRefused(f"the policy of this site refuses task {order.name!r}")
        self._filters.verify_task(order)
        if order.expects:
            rounds = admitted.submission.spec.workflow.rounds
            self._tools.promises.verify_left(self._work.job_id, admitted.filters, rounds)

    async def _fetch_tensors(self, order: pb.TaskOrder) -> None:
        """Bring here what did not come with the task; it is named first, so that it stays."""
        work = self._work
        if self._prefetching is not None and self._coming not in blobs_of(order):
            self._prefetching.cancel()
        self._coming = ""
        older, base = work.models, work.base
        work.models = blobs_of(order) | ({base} - {""})  # what has not changed since need not come again
        self._tools.collect(older)
        for payload, doing in ((order.model, "fetching model"), (order.extra, "fetching tensors")):
            if payload.digest:
                await self._fetch(payload.digest, payload.size, doing, base)
        work.base, work.models = order.model.digest, blobs_of(order)
        self._tools.collect({base} - {""})

    async def _hand_over(self, order: pb.TaskOrder) -> None:
        if self._work.order is not order:
            return
        task = pb.TaskOrder()
        task.CopyFrom(order)
        process = await self._worker()
        if process is None or self._work.order is not order:
            return
        if self._work.handed == order.task_id:  # it is at it, perhaps since before this agent was started
            self._work.be("training")
            self._begin(order)
            return
        await self._lay(order, task)
        await self._tell(process, order, task)

    async def _lay(self, order: pb.TaskOrder, task: pb.TaskOrder) -> None:
        """Put the blobs of a task where the job's process can read them, and say in `task` where that is."""
        self._clear_in()
        if order.model.size and self._filters.on_tasks:
            path = self._place_in()
            task.model.CopyFrom(await asyncio.to_thread(self._filters.write_model, order, path))
        else:
            self._lay_in(task.model)
        self._lay_in(task.extra)

    def _lay_in(self, payload: pb.Payload) -> None:
        if payload.digest:
            path = self._place_in()
            self._tools.blobs.link(payload.digest, path)
            payload.CopyFrom(pb.Payload(file=path.name, size=payload.size))

    def _place_in(self) -> Path:
        """A new file's path in the folder that the job's process reads from."""
        self._serial += 1
        path = self._in / f"{self._serial:06d}.safetensors"
        self._laid = [*(self._laid or ()), path]
        return path

    def _clear_in(self) -> None:
        """What an earlier task brought goes; whoever is at it has it mapped."""
        for old in self._in.iterdir() if self._laid is None else self._laid:
            self._tools.blobs.unlink(old)
        self._laid = []

    async def _tell(self, process: Process, order: pb.TaskOrder, task: pb.TaskOrder) -> None:
        """Tell the process, once; that it was told is written down a moment later, if it is still at it.

        Nothing is lost by that. Killed between the two, the next agent knows of no open task: what the
        process answers counts once the server's order has come again (see `Hearing`). The record is not
        synced either: a power cut ends the process as well.
        """
        work = self._work
        if work.order is not order:
            return
        work.handed = order.task_id
        work.be("training")
        self._begin(order)
        with contextlib.suppress(JobFailed):  # it has ended: who listens to it says so, or begins again
            await process.channel.send(pb.ToWorker(task=task))

    def _begin(self, order: pb.TaskOrder) -> None:
        self._tools.tasks.begin(self._work.job_id, order, tries=self._work.tries)
        asyncio.get_running_loop().call_later(MOMENT, self._note, order)

    def _note(self, order: pb.TaskOrder) -> None:
        if self._work.order is order and not self._work.over:  # else it has been answered
            self._tasks.spawn(self._keep(order))

    async def _keep(self, order: pb.TaskOrder) -> None:
        try:
            await self._tools.tasks.keep(self._work.job_id)
        except LocalError as error:  # the task fails for that: what the process says to it comes too late
            self._work.superseded.add(order.task_id)
            await self._answering.fail(order, failure_of(error))


def _verify_size(payload: pb.Payload) -> None:
    """By its size it is told whether there is something to filter.

    Raises:
        ProtocolError: the size is not that of what is there, or the server names a file of ours.
    """
    where = payload.WhichOneof("where")
    fits = payload.size == len(payload.inline) if where in (None, "inline") else payload.size > 0
    if where == "file" or not fits:
        raise ProtocolError(f"the server sent tensors of {payload.size} bytes that are not what it says")
