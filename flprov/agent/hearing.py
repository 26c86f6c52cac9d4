# SPDX-License-Identifier: Apache-2.0
"""What a job's process says to the agent: a hostile peer, whose every message is checked.

Its update is taken out of its reach, checked as the server will check it, filtered as the site's policy
says, and answered.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from flprov.agent.admission import Admitted
from flprov.agent.answering import Answering
from flprov.agent.handover import HandOver
from flprov.agent.sitefilters import SiteFilters
from flprov.agent.surroundings import SiteWork
from flprov.agent.telling import Telling
from flprov.agent.updates import remove_out, take_out, verify_own_update
from flprov.errors import FlprovError, ProtocolError
from flprov.wire import FiniteFiles, failure_of, pb


class Hearing:
    """Hears one job's process."""

    def __init__(
        self,
        work: SiteWork,
        admitted: Admitted,
        out: Path,
        filters: SiteFilters,
        *,
        handover: HandOver,
        answering: Answering,
        telling: Telling,
    ) -> None:
        self._work = work
        self._tools = work.tools
        self._out = out
        self._filters = filters
        self._max_weight = admitted.submission.spec.sites.max_weight
        self._handover = handover
        self._answering = answering
        self._telling = telling
        self._finite = FiniteFiles()
        self._back = False  # it has not said yet what it does, to an agent that came back
        self._repeats = False  # it may say its next answer again, and even do the task again

    def begin(self, *, back: bool) -> None:
        """A process speaks: a new one, or one that goes `back` to the time of another agent."""
        self._back = self._repeats = back

    async def said(self, frame: pb.FromWorker) -> None:
        """Its next message.

        Raises:
            ProtocolError: it said what it may not say now.
        """
        kind, order = frame.WhichOneof("body"), self._work.order
        if kind == "answer":
            await self._answered(frame.answer)
        elif kind == "progress":
            self._telling.pass_on(frame.progress)
        elif kind == "resumed":
            self._resumed(frame.resumed.task_id)
        elif kind == "failure" and order is not None:
            await self._answering.fail(order, frame.failure)

    def _resumed(self, task_id: str) -> None:
        """What the process is at, or has just done, since before the agent was away."""
        if not self._back:
            raise ProtocolError("the job's process resumed a conversation that had not broken off")
        self._back = False
        work, order = self._work, self._work.order
        if order is not None and task_id == order.task_id:
            work.handed = task_id
            return
        work.superseded.add(task_id)
        if order is None:  # killed before it was written down; the server will order it once more
            work.handed = task_id
        elif work.handed != order.task_id:  # it was lost on the way
            self._handover.begin(order)

    async def _answered(self, answer: pb.TaskAnswer) -> None:
        work, order = self._work, self._work.order
        if answer.task_id in work.superseded:  # done while we were away, and no longer waited for
            if order is None and work.handed == answer.task_id:
                work.handed = ""  # should it be ordered again, it is done again
            remove_out(answer.update.tensors, self._out)
            return
        if order is None or answer.task_id != order.task_id:
            raise ProtocolError("the job answered a task that is not open")
        if self._repeats:
            work.superseded.add(order.task_id)
            self._repeats = False
        if answer.WhichOneof("outcome") == "failure":
            await self._answering.fail(order, answer.failure)
            return
        try:
            await self._answering.update(order, await self._take(answer.update, order))
        except FlprovError as error:
            taken, work.taking = work.taking, set()
            self._tools.collect(taken)
            await self._answering.fail(order, failure_of(error))
        work.taking = set()
        # Not before: if we are killed until then, the process says all this again.
        remove_out(answer.update.tensors, self._out)

    async def _take(self, said: pb.UpdateMessage, order: pb.TaskOrder) -> pb.UpdateMessage:
        """The update as it may leave: out of the process's reach, checked and filtered."""
        update = pb.UpdateMessage()
        update.CopyFrom(said)
        update.ClearField("tensors")
        update.tensors.CopyFrom(
            await take_out(
                said.tensors,
                self._out,
                self._tools.blobs,
                confinement=self._work.confinement,
                watch=self._finite.watch(said.tensors.size) if said.tensors.file else None,
            )
        )
        self._work.taking = {update.tensors.digest} - {""}
        if update.tensors.digest or order.model.digest:
            await asyncio.to_thread(self._verify, update, order)
        else:  # a small one is checked before a thread has been woken
            self._verify(update, order)
        return await self._filter(update, order) if self._filters.on_results else update

    def _verify(self, update: pb.UpdateMessage, order: pb.TaskOrder) -> None:
        finite = update.tensors.digest in self._finite  # seen as it was hashed
        verify_own_update(update, order, self._tools.blobs, self._max_weight, finite=finite)

    async def _filter(self, update: pb.UpdateMessage, order: pb.TaskOrder) -> pb.UpdateMessage:
        """The update as the site's policy lets it leave; what the process sent is not kept."""
        work = self._work
        filtered = await self._filters.filter_update(update, order)
        unfiltered, work.taking = work.taking, {filtered.tensors.digest} - {""}
        self._tools.collect(unfiltered - work.taking)
        return filtered
