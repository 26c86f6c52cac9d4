# SPDX-License-Identifier: Apache-2.0
"""The workflow's part of a job: when it begins, what it says, and that it is started again when killed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flprov._base import canonical_json, to_document
from flprov.errors import ProtocolError, UpdateRefused
from flprov.jobs import JobState
from flprov.server.foreign import CODE, TRACEBACK, foreign_line, foreign_text
from flprov.server.jobs import events as ev
from flprov.server.jobs.answers import Answers
from flprov.server.jobs.ending import Ending
from flprov.server.jobs.gather import Gather
from flprov.server.jobs.membership import Membership
from flprov.server.jobs.surroundings import Parts
from flprov.server.jobs.workflow import verify_names
from flprov.server.records import RoundRecord
from flprov.store import Delete, Put, Row
from flprov.wire import pb

_LONGEST_DOING = 120  # characters
MOST_RESTARTS = 3  # of the workflow's process, in one round


class Conduct:
    """Leads the workflow's process through the rounds."""

    def __init__(self, parts: Parts, ending: Ending, membership: Membership, answers: Answers) -> None:
        self._parts = parts
        self._ending = ending
        self._membership = membership
        self._answers = answers
        self._frame: pb.FromWorker | None = None

    # ---- its beginning -------------------------------------------------------------------

    async def begin(self) -> None:
        """From deploying to running, once enough sites are ready and nobody else is waited for."""
        await self._membership.end_if_too_few()
        parts, record = self._parts, self._parts.record
        if not parts.active:
            return
        ready, waited = parts.sites.in_state("ready"), parts.sites.in_state("deploying")
        missing = sorted(set(record.spec.sites.required) - set(ready))
        enough = not missing and len(ready) >= record.quorum
        still, now = parts.sites.still(), parts.around.clock.now()
        stuck = [site for site in waited if site in still and still[site].until <= now]
        parts.arm(
            _earliest([moment for site in waited if site in still for moment in still[site].moments(now)])
        )
        if enough and waited == stuck:
            for site in stuck:
                await self._membership.note_lack(site, still[site].said, record.round)
                parts.sites.set(site, "stalled", still[site].said)
            waited = []
        slow = [still[site].said for site in waited if site in still and still[site].shows(now)]
        if waited or not enough:
            wanted = ", ".join(missing or waited) or f"{record.quorum} sites, {len(ready)} are ready"
            parts.ledger.note(reason="; ".join([f"waiting for {wanted}", *slow]))
        elif not parts.workflow_ready:
            parts.ledger.note(reason="starting the workflow")
        else:
            start = self._beginning()  # first: where the disk refuses it, this comes once more
            await parts.ledger.step(JobState.RUNNING, "", "job.run")
            await parts.workflow.send(start)

    def _beginning(self) -> pb.ToWorker:
        """What the workflow goes on with, handed in. Raises LocalError."""
        parts, record = self._parts, self._parts.record
        start = pb.StartWorkflow(
            job_id=record.id, spec=canonical_json(record.spec), sites=record.targets, round=record.round
        )
        if record.model is not None:
            parts.workflow.drop_inputs()  # of a time when the disk refused the rest
            parts.workflow.hand_in_state(record.model, start)
        return pb.ToWorker(start_workflow=start)

    # ---- its end -------------------------------------------------------------------------

    async def gone(self, event: ev.WorkflowGone) -> None:
        """Its process has ended unasked. Killed from outside, it is started again; else the job fails."""
        parts, record = self._parts, self._parts.record
        number = record.round + 1
        if not event.killed:
            await self._ending.fail("workflow", event.code, event.message, hint=event.hint)
            return
        if record.restarts >= MOST_RESTARTS:
            message = f"{event.message}; it had been started again {MOST_RESTARTS} times in round {number}"
            await self._ending.fail(
                "workflow", "job-failed", message, hint="who ends processes on the server?"
            )
            return
        tries = f"{record.restarts + 1} of {MOST_RESTARTS}"
        message = f"{event.message}; started again from the saved state of round {number} ({tries})"
        await parts.ledger.save(
            Row(who="server", what="workflow.restart", object=record.id, outcome="again", reason=message),
            restarts=record.restarts + 1,
            reason=message,
            causes=parts.ledger.causes("workflow", "unavailable", message),
        )
        parts.rounds.reopen()
        parts.launch()

    # ---- what it says --------------------------------------------------------------------

    async def said(self, frame: pb.FromWorker) -> None:
        """A frame from the workflow's process; the same one again when it could not be written down."""
        if frame is not self._frame:
            self._frame = frame
            self._parts.workflow.forget_taken()
        match frame.WhichOneof("body"):
            case "failure":
                await self._failed(frame.failure)
            case "ready":
                self._parts.workflow_ready = True
                if self._parts.record.state is JobState.RUNNING:
                    await self._parts.workflow.send(self._beginning())
            case "broadcast":
                await self._broadcast(frame.broadcast)
            case "withdraw":
                await self._withdraw(frame.withdraw.task_id)
            case "refuse":
                await self._refuse(frame.refuse)
            case "close":
                await self._close_round(frame.close)
            case "finished":
                await self._finish(frame.finished)
            case "progress":
                self._progressed(frame.progress)

    def _progressed(self, said: pb.Progress) -> None:
        parts = self._parts
        doing = foreign_line(said.doing, _LONGEST_DOING)
        if doing and doing != parts.doing:
            parts.doing = doing
            parts.around.on_progress(parts.record.id)
        if said.values:
            parts.around.told(parts.record.id, said)

    async def _failed(self, failure: pb.Failure) -> None:
        code = foreign_line(failure.code, CODE) or "job-failed"
        traceback = foreign_text(failure.traceback, TRACEBACK)
        await self._ending.fail(
            "workflow", code, failure.message, traceback=traceback, hint=foreign_line(failure.hint)
        )

    def _verify_round(self, number: int) -> None:
        if number != self._parts.record.round:
            raise ProtocolError(
                f"the workflow is in round {number}, and the job in round {self._parts.record.round}"
            )

    async def _broadcast(self, frame: pb.Broadcast) -> None:
        self._verify_round(frame.round)
        parts = self._parts
        gather = await parts.rounds.begin(frame, parts.record.refusals)
        for site in gather.open:
            part = parts.sites.parts[site]
            away = site in parts.sites.away
            stalled = part.state == "stalled" and site in parts.record.members and not away
            if part.state in ("ready", "training") or stalled:
                parts.sites.order(site, parts.rounds.order(gather, site))
            elif part.state != "deploying" and not away:
                gather.give_up(site, part.reason or "not connected since the job began")
                await parts.rounds.pass_on(gather, site)

    async def _withdraw(self, task_id: str) -> None:
        await self._parts.rounds.withdraw(self._asked(task_id))

    async def _refuse(self, frame: pb.Refuse) -> None:
        """An update that only the workflow can judge counts as one that our own checks have refused."""
        await self._answers.write()
        parts, gather, site = self._parts, self._asked(frame.task_id), frame.site
        update = gather.taken.get(site)
        if update is None:
            raise ProtocolError(f"the workflow refused an update that {foreign_line(site, 80)} has not sent")
        reason = foreign_line(frame.reason) or "the workflow did not accept it"
        row = Row(who="workflow", what="update.refuse", object=update.key, outcome="refused", reason=reason)
        causes = parts.ledger.causes(site, UpdateRefused("").code, reason)
        await parts.ledger.save(row, Delete("update", update.key), causes=causes)
        gather.refuse(site, reason)
        parts.rounds.gathers.unsettle(gather)
        parts.rounds.forget(update)

    def _asked(self, task_id: str) -> Gather:
        gather = self._parts.rounds.gathers.get(task_id)
        if gather is None:
            raise ProtocolError(f"the workflow spoke of task {ascii(task_id)[:80]}, which it has not sent")
        return gather

    async def _close_round(self, frame: pb.CloseRound) -> None:
        self._verify_round(frame.round)
        parts, record, unwritten = self._parts, self._parts.record, self._answers.unwritten
        state = await parts.workflow.take_state(frame)
        for site, model in parts.rounds.foretell(frame.round, record.model, state):
            parts.sites.foretell(site, model)
        await parts.workflow.sync_state(state)
        closed = parts.rounds.summary(frame, state)
        gone = parts.around.checkpoints.outdated([*parts.around.kept(record.id), closed])
        used = parts.blobs().union(*(round_.state.digests for round_ in gone if round_.state))
        let_go = [round_.without_state() for round_ in gone]
        new = {update.key for update, _ in unwritten}
        written = [update.key for update in parts.rounds.updates() if update.key not in new]
        await parts.ledger.save(
            Row(
                who="server", what="round.close", object=closed.key, data={"sites": len(closed.contributors)}
            ),
            *(Put("round", round_.key, to_document(round_)) for round_ in (closed, *let_go)),
            *(Delete("update", key) for key in written),
            before=[row for _, row in unwritten],
            round=frame.round + 1,
            model=state,
            degraded=record.degraded or bool(closed.absent or closed.refused),
            restarts=0,
            reason="",
        )
        self._answers.written()
        self._closed((closed, *let_go))
        parts.workflow.settle(state)
        saved = pb.RoundSaved(round=frame.round, model=state.model.digest if state.model else "")
        await parts.workflow.send(pb.ToWorker(saved=saved))
        parts.workflow.drop_inputs()
        parts.sites.close_round(frame.round, parts.record.members)
        parts.around.collect(used)

    def _closed(self, changed: Sequence[RoundRecord]) -> None:
        parts = self._parts
        parts.rounds.drop()
        for round_ in changed:
            parts.around.keep_round(round_)
        parts.ledger.changed()

    async def _finish(self, frame: pb.Finished) -> None:
        verify_names(frame.results)
        keep = self._parts.workflow.keep
        results = {name: await keep(payload) for name, payload in frame.results.items()}
        outcome = JobState.DEGRADED if self._parts.record.degraded else JobState.COMPLETED
        await self._ending.finish(outcome, results, foreign_line(frame.reason))


def _earliest(moments: Sequence[datetime]) -> datetime | None:
    return min(moments, default=None)
