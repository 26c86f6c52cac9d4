# SPDX-License-Identifier: Apache-2.0
"""The rounds of one job: broadcasts out, answers in, the saved state at each boundary."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from flprov._base import Clock
from flprov.errors import ProtocolError
from flprov.server.jobs.gather import Asked, Gather, Verdict
from flprov.server.jobs.patience import Still
from flprov.server.jobs.workflow import Workflow, to_payload
from flprov.server.records import BlobRef, JobRecord, RoundRecord, UpdateRecord
from flprov.wire import pb
from flprov.wire.documents import Contributor, Missing

LATE = "the round went on without it"
_TASK_ID = re.compile(r"[!-~]{1,200}")  # becomes part of a record's id and of rows in the log
_MOST_SCALARS = 64 << 10  # bytes
_LONGEST_NAME = 100  # characters
_SPARE = 64  # blobs that a site may send in a round beyond one for each broadcast: late and refused ones


class Rounds:
    """What is open in the job's current round.

    Several broadcasts may make up a round (train, then evaluate); one is open at a time.
    """

    def __init__(
        self, job: JobRecord, workflow: Workflow, clock: Clock, known: Mapping[str, UpdateRecord]
    ) -> None:
        self._quorum = job.quorum
        self._membership = job.spec.sites
        self._job_id = job.id
        self._targets = job.targets
        self._workflow = workflow
        self._clock = clock
        self._known = dict(known)  # updates that were accepted before a restart of the server
        self._began: datetime | None = None
        self._closed: list[Gather] = []
        self._announced: dict[str, set[str]] = {}  # site -> digests that it began to send in this round
        self._sent: dict[str, set[str]] = {}  # site -> digests that it sent whole
        self._asked: set[str] = set()  # ids of the tasks of this round and of the one before
        self._before: set[str] = set()
        self.open: Gather | None = None
        self.total: int | None = None

    # ---- a broadcast ---------------------------------------------------------------------

    async def begin(self, frame: pb.Broadcast, refusals: Mapping[str, str]) -> Gather:
        """Open a broadcast of the workflow; sites that refused the job are out from the start."""
        if self.open is not None and self.open.open:
            raise ProtocolError("the workflow broadcast a task while another was open")
        if self.open is not None:
            self._closed.append(self.open)
        if len(frame.scalars) > _MOST_SCALARS or len(frame.name) > _LONGEST_NAME:
            raise ProtocolError("the workflow broadcast a task that is larger than a message may be")
        if not _TASK_ID.fullmatch(frame.task_id):
            raise ProtocolError(f"the workflow named a task {ascii(frame.task_id)[:80]}")
        unknown = sorted(set(frame.sites) - set(self._targets))
        if unknown:
            raise ProtocolError(f"the workflow sent a task to {unknown[0]}, which is not a site of this job")
        self._began = self._began or self._clock.now()
        self.total = frame.rounds
        asked = Asked(
            task_id=frame.task_id,
            name=frame.name,
            round=frame.round,
            rounds=frame.rounds,
            expects=frame.expects,
            model=await self._workflow.take_out(frame.model),
            scalars=frame.scalars,
            sites=tuple(sorted(set(frame.sites) or self._targets)),
        )
        self.open = gather = Gather(
            asked,
            quorum=self._quorum,
            required=self._membership.required,
            absence=timedelta(seconds=self._membership.absence_seconds),
            takes_late=self._membership.late == "take",
        )
        self._asked.add(asked.task_id)
        for site in gather.open:
            known = self._known.get(f"{self._job_id}/{asked.task_id}/{site}")
            if known is not None:
                gather.take(known)
            elif site in refusals:
                gather.lose(site, f"refused the job: {refusals[site]}")
        settled = [site for site in asked.sites if site in gather.taken or site in gather.absent]
        for site in settled:
            await self.pass_on(site, more=site != settled[-1])
        return gather

    def order(self) -> pb.TaskOrder:
        """The open task, as it goes to a site."""
        assert self.open is not None
        asked = self.open.asked
        return pb.TaskOrder(
            job_id=self._job_id,
            task_id=asked.task_id,
            name=asked.name,
            round=asked.round,
            rounds=asked.rounds,
            expects=asked.expects,
            model=to_payload(asked.model),
            scalars=asked.scalars,
        )

    def awaits(self, task_id: str, site: str) -> bool:
        """Whether this site's answer to this task is still wanted."""
        return self.open is not None and self.open.asked.task_id == task_id and site in self.open.open

    def takes(self, task_id: str, site: str) -> bool:
        """Whether this site's answer to this task counts: awaited, or given up and taken all the same."""
        if self.awaits(task_id, site):
            return True
        return self.open is not None and self.open.asked.task_id == task_id and self.open.takes_late(site)

    def missed(self, task_id: str, site: str) -> str:
        """Why this site's answer to this task comes too late; empty when nobody asked for it here."""
        for gather in self._gathers():
            if gather.asked.task_id == task_id:
                why = gather.missing.get(site, "")
                return f"{LATE}: {why}" if why else LATE
        return f"{LATE}: its round is saved" if task_id in self._before else ""

    def reopen(self) -> None:
        """The workflow begins the round anew: what was taken is kept for when it asks again."""
        self._known = {update.key: update for update in self.updates()}
        self._closed, self.open = [], None

    def holds(self, task_id: str, site: str) -> bool:
        """Whether this site's answer to this task was taken before."""
        known = f"{self._job_id}/{task_id}/{site}" in self._known
        return known or any(g.asked.task_id == task_id and site in g.taken for g in self._gathers())

    async def pass_on(self, site: str, *, more: bool = False) -> None:
        """Hand one site's outcome in the open broadcast to the workflow; `more`: another one follows."""
        gather = self.open
        assert gather is not None
        answer = pb.SiteAnswer(task_id=gather.asked.task_id, site=site, last=not (more or gather.open))
        update = gather.taken.get(site)
        if update is None:
            answer.absent.CopyFrom(pb.Failure(code="absent", message=gather.missing[site]))
        else:
            answer.update.CopyFrom(
                pb.UpdateMessage(
                    kind=update.kind,
                    tensors=self._workflow.hand_in(update.tensors),
                    samples=update.samples,
                    weight=update.weight,
                    metrics=update.metrics,
                    seconds=update.seconds,
                )
            )
        await self._workflow.send(pb.ToWorker(answer=answer))

    def judge(self, away: Mapping[str, datetime], still: Mapping[str, Still]) -> Verdict:
        """See `Gather.judge`; nothing to do when no broadcast is open."""
        if self.open is None:
            return Verdict()
        return self.open.judge(away, self._clock.now(), still)

    # ---- blobs ---------------------------------------------------------------------------

    def verify_may_send(self, site: str, digest: str) -> bool:
        """Whether the site is known to have this blob, so that its bytes need not come (again).

        Raises:
            ProtocolError: it has announced more blobs than a round has tasks.
        """
        announced = self._announced.setdefault(site, set())
        most = len(self._gathers()) + _SPARE
        if digest not in announced and len(announced) >= most:
            raise ProtocolError(f"{site} has announced {most} blobs in one round of job {self._job_id}")
        announced.add(digest)
        sent = self._sent.get(site, set())
        return digest in sent | self.models() | {u.tensors.digest for u in self.updates() if u.site == site}

    def note_sent(self, site: str, digest: str) -> None:
        """The site has sent this blob whole; its update may name it."""
        self._sent.setdefault(site, set()).add(digest)

    def sent_by(self, site: str, digest: str) -> bool:
        """Whether the site has sent this blob whole in this round."""
        return digest in self._sent.get(site, ())

    def models(self) -> set[str]:
        """Digests of what the sites were given in this round."""
        return {gather.asked.model.digest for gather in self._gathers() if gather.asked.model.digest}

    def blobs(self) -> set[str]:
        """Digests that the open round needs."""
        updates = {update.tensors.digest for update in self.updates() if update.tensors.digest}
        return self.models().union(updates, *self._sent.values())

    # ---- its end -------------------------------------------------------------------------

    def summary(self, frame: pb.CloseRound, state: BlobRef) -> RoundRecord:
        """The record of the round that the workflow has committed."""
        gathers = self._gathers()
        absent = {site: reason for g in gathers for site, reason in (g.absent | g.failed).items()}
        refused = {site: reason for g in gathers for site, reason in g.refused.items()}
        return RoundRecord(
            job_id=self._job_id,
            round=frame.round,
            started_at=self._began,
            finished_at=self._clock.now(),
            contributors=_contributors(gathers),
            absent=_missing(absent),
            refused=_missing(refused),
            metrics={name: value for name, value in frame.metrics.items() if math.isfinite(value)},
            state=state,
        )

    def drop(self) -> None:
        """Forget the round: it is saved, or the job has ended."""
        self._closed, self.open, self._began = [], None, None
        self._before, self._asked = self._asked, set()
        self._known.clear()
        self._announced.clear()
        self._sent.clear()

    def updates(self) -> list[UpdateRecord]:
        """Every accepted update of the round, also those of before a restart that nobody asked for again."""
        taken = [update for gather in self._gathers() for update in gather.taken.values()]
        return list({update.key: update for update in (*self._known.values(), *taken)}.values())

    def _gathers(self) -> list[Gather]:
        return [*self._closed, *([self.open] if self.open else [])]


def _missing(reasons: Mapping[str, str]) -> tuple[Missing, ...]:
    return tuple(Missing(site=site, reason=reason) for site, reason in sorted(reasons.items()))


def _contributors(gathers: list[Gather]) -> tuple[Contributor, ...]:
    """One line per site: the first broadcast's numbers, with the metrics of all of them."""
    found: dict[str, Contributor] = {}
    for gather in gathers:
        for site, update in gather.taken.items():
            line = update.contributor()
            if site in found:
                first = found[site]
                line = replace(
                    first,
                    metrics={**first.metrics, **line.metrics},
                    seconds=first.seconds + line.seconds,
                    bytes=first.bytes + line.bytes,
                )
            found[site] = line
    return tuple(found[site] for site in sorted(found))
