# SPDX-License-Identifier: Apache-2.0
"""The rounds of one job: broadcasts out, answers in, the saved state at each boundary."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from flprov._base import Clock
from flprov.errors import FlprovError, PermissionRefused, ProtocolError
from flprov.jobs import JobState
from flprov.server.foreign import foreign_line
from flprov.server.jobs.gather import Asked, Gather
from flprov.server.jobs.gathers import SPARED, Gathers
from flprov.server.jobs.roundblobs import RoundBlobs
from flprov.server.jobs.workflow import Workflow, to_payload
from flprov.server.records import BlobRef, JobRecord, RoundRecord, StateRef, UpdateRecord
from flprov.wire import pb
from flprov.wire.documents import Contributor, Missing

_TASK_ID = re.compile(r"[!-~]{1,200}")  # becomes part of a record's id and of rows in the log
_MOST_SCALARS = 64 << 10  # bytes; also of the names that a task requires
_LONGEST_NAME = 100  # characters


class Rounds:
    """What is open in the job's current round.

    Several broadcasts may make up a round (train, then evaluate), one after the other or at once.

    Attributes:
        gathers: the round's broadcasts.
        total: how many rounds the workflow means to run, once it has said so.
        replayed: the round is run again, after a restart: what the workflow has not asked yet it may ask.
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
        self._blobs = RoundBlobs(job.id)
        self._foretold: set[str] = set()  # the model that probably comes next
        self._before: dict[str, set[str]] | None = None  # what each site was given in its last round
        self.gathers = Gathers()
        self.total: int | None = None
        self.replayed = job.state is JobState.RUNNING

    # ---- a broadcast ---------------------------------------------------------------------

    async def begin(self, frame: pb.Broadcast, refusals: Mapping[str, str]) -> Gather:
        """Open a broadcast of the workflow; sites that refused the job are out from the start.

        Raises:
            ProtocolError: the workflow may not ask this, or not now.
        """
        self._verify(frame)
        sites = tuple(sorted(set(frame.sites) or self._targets))
        self.gathers.verify_new(frame.task_id, sites)
        self._began = self._began or self._clock.now()
        self.total = frame.rounds
        gather = Gather(
            await self._take_out(frame, sites),
            quorum=self._quorum,
            required=self._membership.required,
            absence=timedelta(seconds=self._membership.absence_seconds),
            takes_late=self._membership.late == "take",
        )
        keys = {site: f"{self._job_id}/{frame.task_id}/{site}" for site in sites}
        known = {site: self._known[key] for site, key in keys.items() if key in self._known}
        handed = self._hand_in(known)
        self.gathers.add(gather)  # from here on nothing fails: who tries again has opened nothing yet
        for site in gather.open:
            if site in known:
                gather.take(known[site])
            elif site in refusals:
                gather.lose(site, f"refused the job: {refusals[site]}")
        settled = [site for site in sites if site in gather.taken or site in gather.absent]
        for site in settled:
            await self.pass_on(gather, site, handed.get(site), more=site != settled[-1])
        return gather

    def _hand_in(self, updates: Mapping[str, UpdateRecord]) -> dict[str, pb.Payload]:
        """Bytes of all these updates for the workflow, or of none. Raises LocalError."""
        handed: dict[str, pb.Payload] = {}
        try:
            for site, update in updates.items():
                handed[site] = self._workflow.hand_in(update.tensors)
        except FlprovError:
            for payload in handed.values():
                self._workflow.take_back(payload)
            raise
        return handed

    def _verify(self, frame: pb.Broadcast) -> None:
        required = sum(len(name) for name in frame.requires)
        if max(len(frame.scalars), required) > _MOST_SCALARS or len(frame.name) > _LONGEST_NAME:
            raise ProtocolError("the workflow broadcast a task that is larger than a message may be")
        if not _TASK_ID.fullmatch(frame.task_id):
            raise ProtocolError(f"the workflow named a task {ascii(frame.task_id)[:80]}")
        unknown = sorted(set(frame.sites) - set(self._targets))
        if unknown:
            raise ProtocolError(
                f"the workflow sent a task to {foreign_line(unknown[0], 80)}, which is not a site of this job"
            )
        stray = sorted(set(frame.extra_of) - set(frame.sites or self._targets))
        if stray:
            raise ProtocolError(
                f"the workflow sent tensors for {foreign_line(stray[0], 80)}, which was not sent the task"
            )

    async def _take_out(self, frame: pb.Broadcast, sites: tuple[str, ...]) -> Asked:
        take_out = self._workflow.take_out
        return Asked(
            task_id=frame.task_id,
            name=frame.name,
            round=frame.round,
            rounds=frame.rounds,
            expects=frame.expects,
            model=await take_out(frame.model),
            scalars=frame.scalars,
            sites=sites,
            extra=await take_out(frame.extra) if frame.HasField("extra") else None,
            extra_of={site: await take_out(payload) for site, payload in sorted(frame.extra_of.items())},
            requires=tuple(frame.requires),
            optional=frame.optional,
        )

    def order(self, gather: Gather, site: str) -> pb.TaskOrder:
        """The task of a broadcast, as it goes to this site."""
        asked = gather.asked
        order = pb.TaskOrder(
            job_id=self._job_id,
            task_id=asked.task_id,
            name=asked.name,
            round=asked.round,
            rounds=asked.rounds,
            expects=asked.expects,
            model=to_payload(asked.model),
            scalars=asked.scalars,
            requires=asked.requires,
        )
        extra = asked.extra_of.get(site, asked.extra)
        if extra is not None:
            order.extra.CopyFrom(to_payload(extra))
        return order

    def awaited(self, task_id: str, site: str) -> Gather | None:
        """The broadcast in which this site's answer to this task is still wanted."""
        gather = self.gathers.get(task_id)
        return gather if gather is not None and gather.awaits(site) else None

    def taking(self, task_id: str, site: str) -> Gather | None:
        """The same, or the one that takes the answer although it had given the site up."""
        gather = self.gathers.get(task_id)
        return gather if gather is not None and (gather.awaits(site) or gather.takes_late(site)) else None

    def reopen(self) -> None:
        """The workflow begins the round anew: what was taken is kept for when it asks again."""
        self._known = {update.key: update for update in self.updates()}
        self.gathers.clear()
        self.replayed = True

    def holds(self, task_id: str, site: str) -> bool:
        """Whether this site's answer to this task was taken before."""
        return f"{self._job_id}/{task_id}/{site}" in self._known or self.gathers.holds(task_id, site)

    def forget(self, update: UpdateRecord) -> None:
        """An update that was taken does not count any more."""
        self._known.pop(update.key, None)

    async def pass_on(
        self, gather: Gather, site: str, tensors: pb.Payload | None = None, *, more: bool = False
    ) -> None:
        """Tell the workflow one site's outcome in a broadcast.

        Args:
            gather: the broadcast.
            site: the site.
            tensors: those of its update, if they were handed in before.
            more: another outcome follows.
        """
        answer = pb.SiteAnswer(task_id=gather.asked.task_id, site=site, last=not (more or gather.is_open))
        update = gather.taken.get(site)
        if update is None:
            answer.absent.CopyFrom(pb.Failure(code="absent", message=gather.missing[site]))
        else:
            answer.update.CopyFrom(
                pb.UpdateMessage(
                    kind=update.kind,
                    tensors=tensors or self._workflow.hand_in(update.tensors),
                    samples=update.samples,
                    weight=update.weight,
                    metrics=update.metrics,
                    seconds=update.seconds,
                )
            )
        await self._workflow.send(pb.ToWorker(answer=answer))

    async def withdraw(self, gather: Gather) -> None:
        """Nobody is waited for any more in this broadcast, and the workflow hears that."""
        if gather.is_open:  # else the last answer is on its way to it
            gather.withdraw()
            last = pb.SiteAnswer(task_id=gather.asked.task_id, last=True)
            last.absent.CopyFrom(pb.Failure(code="absent", message=SPARED))
            await self._workflow.send(pb.ToWorker(answer=last))

    # ---- blobs ---------------------------------------------------------------------------

    def verify_may_send(self, site: str, digest: str) -> bool:
        """Whether the site is known to have this blob, so that its bytes need not come (again).

        Raises:
            ProtocolError: it has announced more blobs than a round has tasks.
        """
        self._blobs.announce(site, digest, len(self.gathers))
        if self._blobs.sent_by(site, digest) or digest in self.given(site):
            return True
        taken = [gather.taken[site] for gather in self.gathers if site in gather.taken]
        known = [
            update for update in self._known.values() if update.site == site
        ]  # none, but after a restart
        return any(update.tensors.digest == digest for update in (*taken, *known))

    def note_sent(self, site: str, digest: str) -> None:
        """The site has sent this blob whole; its update may name it."""
        self._blobs.note_sent(site, digest)

    def sent_by(self, site: str, digest: str) -> bool:
        """Whether the site has sent this blob whole in this round."""
        return self._blobs.sent_by(site, digest)

    def given(self, site: str) -> set[str]:
        """Digests of what this site may fetch now: models, tensors beside them, the model that comes next."""
        return self._foretold.union(
            *(gather.asked.given(site) for gather in self.gathers if gather.asks(site))
        )

    def foretell(
        self, number: int, before: StateRef | None, after: StateRef
    ) -> Iterator[tuple[str, BlobRef]]:
        """The model that each site will probably be given next; it may be fetched from now on.

        For all sites of the job, or none: when the workflow has sent each of them just the model that it had
        saved `before`, it will do so again with that of `after`.
        """
        self._foretold = set()
        if before is None or before.model is None or after.model is None or number + 1 >= (self.total or 0):
            return
        gathers = tuple(self.gathers)
        took = set(self._targets).intersection(*(gather.taken for gather in gathers))
        if took == set(self._targets) and {gather.asked.model for gather in gathers} == {before.model}:
            self._foretold = {after.model.digest}
            yield from ((site, after.model) for site in self._targets)

    def verify_had(self, site: str, digest: str) -> bool:
        """Whether this site was given this blob, in this round or its last one; false when nobody knows.

        Raises:
            PermissionRefused: it was given others, and not this one.
        """
        if digest in self.given(site) or (self._before and digest in self._before.get(site, ())):
            return True
        if self._before is None:  # this server, or the workflow, was started again
            return False
        raise PermissionRefused(f"job {self._job_id} has never given {site} the blob {ascii(digest)[:20]}")

    def blobs(self) -> set[str]:
        """Digests that the open round needs."""
        asked = set[str]().union(*(gather.asked.blobs for gather in self.gathers))
        updates = {update.tensors.digest for update in self.updates() if update.tensors.digest}
        return asked | updates | self._blobs.all

    # ---- its end -------------------------------------------------------------------------

    def summary(self, frame: pb.CloseRound, state: StateRef) -> RoundRecord:
        """The record of the round that the workflow has committed."""
        gathers = tuple(self.gathers)
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
            spared=tuple(sorted({site for gather in gathers for site in gather.spared})),
            metrics={name: value for name, value in frame.metrics.items() if math.isfinite(value)},
            state=state,
        )

    def drop(self) -> None:
        """Forget the round: it is saved, or the job has ended."""
        if len(self.gathers):
            given = {site: set(self._foretold) for site in self._targets}
            for gather in self.gathers:
                for site in gather.asked.sites:
                    given[site] |= gather.asked.given(site)
            self._before = (self._before or {}) | {site: blobs for site, blobs in given.items() if blobs}
        self.gathers.drop()
        self._began, self.replayed = None, False
        self._known.clear()
        self._blobs.drop()

    def updates(self) -> list[UpdateRecord]:
        """Every accepted update of the round, also those of before a restart that nobody asked for again."""
        taken = [update for gather in self.gathers for update in gather.taken.values()]
        return list({update.key: update for update in (*self._known.values(), *taken)}.values())


def _missing(reasons: Mapping[str, str]) -> tuple[Missing, ...]:
    return tuple(Missing(site=site, reason=reason) for site, reason in sorted(reasons.items()))


def _contributors(gathers: Iterable[Gather]) -> tuple[Contributor, ...]:
    """One line per site: the first broadcast's numbers, with the metrics of all of them.

    The runtime's own tasks (an exchange of keys, say) count as the last ones.
    """
    found: dict[str, Contributor] = {}
    for gather in sorted(gathers, key=lambda gather: gather.asked.name.startswith("flprov.")):
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
