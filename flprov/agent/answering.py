# SPDX-License-Identifier: Apache-2.0
"""From what became of a task to the server: on this site's disk first, then its blob, then the word."""

from __future__ import annotations

import logging

from flprov._base import Tasks
from flprov.agent.admission import Admitted
from flprov.agent.redaction import Redactor
from flprov.agent.surroundings import SiteWork
from flprov.agent.telling import Telling
from flprov.errors import FlprovError, LocalError, error_class
from flprov.wire import failure_of, pb

logger = logging.getLogger(__name__)

_LONGEST_MESSAGE = 2000  # of a failure, as the job's process tells it
_LONGEST_TRACEBACK = 64_000
_LONG = 10.0  # seconds; an update that is on its way for longer is worth a sync of this disk


class Answering:
    """Answers the open task of one job, once."""

    def __init__(
        self, work: SiteWork, admitted: Admitted, redactor: Redactor, telling: Telling, tasks: Tasks
    ) -> None:
        self._work = work
        self._tools = work.tools
        self._admitted = admitted
        self._redactor = redactor
        self._telling = telling
        self._tasks = tasks
        self._sending: set[str] = set()  # tasks whose answers are on their way

    async def fail(self, order: pb.TaskOrder, said: pb.Failure) -> None:
        """The task has failed here; the words are the job's own, or ours."""
        shown = said.traceback[-2 * _LONGEST_TRACEBACK :] if self._admitted.tracebacks else ""
        known = said.code if error_class(said.code) is not FlprovError else "job-failed"
        redact = self._redactor.redact
        failure = pb.Failure(  # masked before it is cut: half a name matches nothing
            code=known,
            message=(await redact(said.message[: 2 * _LONGEST_MESSAGE]))[:_LONGEST_MESSAGE],
            traceback=(await redact(shown))[-_LONGEST_TRACEBACK:],
            hint=(await redact(said.hint[: 2 * _LONGEST_MESSAGE]))[:_LONGEST_MESSAGE],
        )
        await self._answer(order, pb.TaskAnswer(task_id=order.task_id, failure=failure))

    async def update(self, order: pb.TaskOrder, update: pb.UpdateMessage) -> None:
        """The task is done: an update that was taken out of the process's reach, checked and filtered."""
        await self._answer(order, pb.TaskAnswer(task_id=order.task_id, update=update))

    async def _answer(self, order: pb.TaskOrder, answer: pb.TaskAnswer) -> None:
        work, answer.job_id = self._work, self._work.job_id
        if work.order is None or work.order.task_id != order.task_id:
            return  # answered already, or the server has gone on
        work.order = None
        work.be("ready")
        try:
            also = self._tools.tasks.end(work.job_id)
            if order.expects and answer.HasField("update"):
                also += self._tools.promises.count_one(work.job_id, self._admitted.filters)
            # Synced before anything leaves: the row says what has left this building, and the count of
            # what a policy promises must not be lost with the power.
            await self._tools.answers.keep(answer, round=order.round, also=also)
        except FlprovError:
            self._tools.promises.take_back(work.job_id)
            work.order = work.order or order  # it is not answered, so that it can be given up
            raise
        self.send(answer)

    def send(self, answer: pb.TaskAnswer) -> None:
        """Send an answer, now or again: its blob first, over bulk; then the word, over control."""
        if answer.update.tensors.WhichOneof("where") != "digest":
            self._tools.report(pb.FromSite(answer=answer))
        elif answer.task_id not in self._sending:
            self._sending.add(answer.task_id)
            self._tasks.spawn(self._send(answer))

    async def _send(self, answer: pb.TaskAnswer) -> None:
        work, digest = self._work, answer.update.tensors.digest
        settling = self._tasks.spawn(self._settle(digest))
        try:
            telling = self._telling.of_bytes("sending update", answer.task_id)
            await self._tools.bulk.send(work.job_id, digest, telling, base=work.base)
            self._tools.report(pb.FromSite(answer=answer))
        except FlprovError as error:  # if the round was saved meanwhile, or the job is over, nobody minds
            logger.info("job %s, task %s: not sent: %s", work.job_id, answer.task_id, error)
            self._give_up(answer, failure_of(error))
        except Exception:  # the outermost of its task: a fault of ours must not leave the server waiting
            logger.exception("job %s, task %s: not sent", work.job_id, answer.task_id)
            self._give_up(
                answer, failure_of(LocalError("internal error at the site; its log has the details"))
            )
        finally:
            settling.cancel()
            self._sending.discard(answer.task_id)

    async def _settle(self, digest: str) -> None:
        """Bring an update to our disk that does not leave soon: the server's disk is enough for the others.

        Of one that a power cut takes from both, the task is done again.
        """
        await self._tools.clock.sleep(_LONG)
        try:
            await self._tools.blobs.settle(digest)
        except FlprovError as error:  # it is on its way all the same
            logger.info("update %s: %s", digest[:12], error)

    def _give_up(self, answer: pb.TaskAnswer, failure: pb.Failure) -> None:
        """The server hears that the update cannot come; it would wait for it otherwise."""
        said = pb.TaskAnswer(job_id=answer.job_id, task_id=answer.task_id, failure=failure)
        self._tools.report(pb.FromSite(answer=said))
