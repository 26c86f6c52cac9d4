# SPDX-License-Identifier: Apache-2.0
"""All jobs of a server: loaded at start, submitted, scheduled, aborted, looked up."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from flprov._base import Clock, from_document, to_document
from flprov.blobs import BlobStore
from flprov.errors import Conflict, LocalError, Misuse, NotFound
from flprov.jobs import JobState, Submission, match_prefix, new_job_id
from flprov.pki import Identity
from flprov.server.durable import commit_through
from flprov.server.jobs import events as ev
from flprov.server.jobs.checkpoints import Retention, find_checkpoint
from flprov.server.jobs.contributions import LastContributions
from flprov.server.jobs.keptblobs import KeptBlobs
from flprov.server.jobs.planning import JobPlans
from flprov.server.jobs.removal import blobs_of, changes_for_removal, remove_folder, verify_removable
from flprov.server.jobs.run import JobRun
from flprov.server.jobs.scheduling import Scheduler
from flprov.server.jobs.submissions import verify_same
from flprov.server.jobs.surroundings import Surroundings
from flprov.server.jobs.watchers import Watchers
from flprov.server.logs import LogBook
from flprov.server.records import AppRecord, JobRecord, RoundRecord, StateRef, UpdateRecord
from flprov.server.registry import Registry
from flprov.server.series import SeriesBook
from flprov.server.sessions import Session, Sessions
from flprov.server.sights.series import series_head
from flprov.store import Change, Put, Row, Store
from flprov.wire import pb
from flprov.workers import Launcher

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FEW = 50  # sites of a job; who watches one with more is not shown each of their steps alone
_PACE = 0.00025  # seconds for each site, between two looks at such a job: what is shown names every site
_LOOK = timedelta(hours=1)  # between two looks for those
_GIVEN_UP = timedelta(days=7)  # since an upload grew; a site may be away for long, and goes on with it


class Jobs:
    """The jobs, and the one loop that starts them."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        blobs: BlobStore,
        sessions: Sessions,
        launcher: Launcher,
        logs: LogBook,
        registry: Registry,
        folder: Path,
        python: Path,
        unconfined: bool,
        checkpoints: Retention,
    ) -> None:
        self._store = store
        self._clock = clock
        self._blobs = blobs
        self._sessions = sessions
        self._registry = registry
        self.logs = logs
        self._folder = folder
        self._cloning: Counter[str] = Counter()  # saved states that a clone is about to name
        self._runs: dict[str, JobRun] = {}
        self._going: dict[str, JobRun] = {}  # those of them that are not over at every site
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._rounds: dict[str, list[RoundRecord]] = {}
        self._checkpoints: dict[str, dict[int, RoundRecord]] = {}  # rounds of which the state is kept
        self._kept_blobs = KeptBlobs()
        self._contributed: dict[str, LastContributions] = {}  # of active jobs that somebody has looked at
        self._prune_at = clock.now()
        self._tokens: dict[str, str] = {}
        self._watchers = Watchers(clock)
        self.series = SeriesBook(folder, lambda job_id: series_head(self._runs[job_id].record))
        self._listeners: list[Callable[[str], None]] = []
        self.scheduler = Scheduler(jobs=self, sessions=sessions, registry=registry)
        self._submitting = asyncio.Lock()
        self.apps: dict[str, AppRecord] = {}
        self.plans = JobPlans(self.scheduler, sessions, clock=clock, folder=folder, checkpoints=checkpoints)
        self._around = Surroundings(
            clock=clock,
            store=store,
            blobs=blobs,
            sessions=sessions,
            launcher=launcher,
            folder=folder,
            python=python,
            unconfined=unconfined,
            log_grew=logs.tell,
            on_change=self._on_change,
            on_progress=self._watchers.tell_soon,
            collect=self.collect,
            rounds=self.rounds,
            kept=self.checkpoints,
            keep_round=self._keep_round,
            checkpoints=checkpoints,
            model_size=self._model_size,
            told=self._told,
        )
        sessions.listen(self._on_session)

    # ---- from disk -----------------------------------------------------------------------

    def load(self) -> None:
        """Read every record; jobs that have not ended go on. Blobs that no record names are removed."""
        with _uncollected():
            self._load_records()
        self._sweep()
        ended = [run for run in self._runs.values() if run.record.state.terminal]
        self._blobs.drop_uploads(sender for run in ended for sender in _senders(run))
        self.collect(self._blobs.digests())

    def _load_records(self) -> None:
        self.apps = self._read("app", AppRecord)
        self._tokens = {key: str(value["job_id"]) for key, value in self._store.load("token").items()}
        for record in self._read("round", RoundRecord).values():
            self._rounds.setdefault(record.job_id, []).append(record)
            self._note_checkpoint(record)
        for rounds in self._rounds.values():
            rounds.sort(key=lambda record: record.round)
        updates: dict[str, dict[str, UpdateRecord]] = {}
        for key, update in self._read("update", UpdateRecord).items():
            updates.setdefault(update.job_id, {})[key] = update
        for job in sorted(self._read("job", JobRecord).values(), key=lambda job: (job.submitted_at, job.id)):
            self._add(job, updates.get(job.id, {}))

    def _sweep(self) -> None:
        """Remove the folders of jobs that were deleted, and of which a kill kept something."""
        if self._folder.is_dir():
            for left in self._folder.iterdir():
                if left.name not in self._runs:
                    remove_folder(left)

    def _read(self, kind: str, record: type[T]) -> dict[str, T]:
        return {key: from_document(record, value) for key, value in self._store.load(kind).items()}

    def _add(self, job: JobRecord, known: dict[str, UpdateRecord]) -> JobRun:
        run = self._runs[job.id] = JobRun(job, self._around, known)
        if job.state.terminal:
            self.logs.tell(job.id, ended=True)
            run.workflow.clear()  # what a kill between its end and this kept
            if not job.unconfirmed:
                self.series.rest(job.id, job.state.value)
        else:
            for record in self.rounds(job.id):
                self.series.note_round(record)
        if not job.state.terminal or job.unconfirmed:
            self._going[job.id] = run
            self._loops[job.id] = asyncio.create_task(self._drive(run), name=f"job {job.id}")
        else:
            self._kept_blobs.put(job.id, self._blobs_of(run))
        return run

    async def _drive(self, run: JobRun) -> None:
        try:
            await run.run()
        except Exception:
            logger.exception(
                "job %s: its run broke; it goes on when the server is started again", run.record.id
            )
        finally:
            self._loops.pop(run.record.id, None)

    async def close(self) -> None:
        """Stop driving; nothing is lost, all is in the store."""
        loops = list(self._loops.values())
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for run in self._runs.values():
            await run.close()
        await self._watchers.close()
        await self.series.close()

    # ---- looking up ----------------------------------------------------------------------

    def find(self, prefix: str) -> JobRun:
        """The job with this id, unique prefix of an id, or `last`."""
        if prefix == "last" and self._runs:
            return max(self._runs.values(), key=lambda run: run.record.submitted_at)
        return self._runs[match_prefix(prefix, self._runs)]

    def get(self, job_id: str) -> JobRun | None:
        """The job with exactly this id."""
        return self._runs.get(job_id)

    def all(self) -> list[JobRun]:
        """Every job, oldest first."""
        return list(self._runs.values())  # in order: so they are loaded, and so they come

    def going(self) -> list[JobRun]:
        """Those that are not over, or not proven to be over everywhere; oldest first.

        What is done for each site or each event looks at these alone: those of past years only grow.
        """
        return list(self._going.values())

    def rounds(self, job_id: str) -> list[RoundRecord]:
        """The rounds of a job that are over."""
        return self._rounds.get(job_id, [])

    def contributed(self, job_id: str, site: str) -> RoundRecord | None:
        """The last of them that has an update of this site."""
        last = self._contributed.get(job_id, LastContributions())
        if self._runs[job_id].active:
            self._contributed[job_id] = last
        return last.find(self.rounds(job_id), site)

    def checkpoints(self, job_id: str) -> list[RoundRecord]:
        """Those of them of which the saved state is kept."""
        return list(self._checkpoints.get(job_id, {}).values())

    def find_app(self, text: str) -> AppRecord:
        """An app by digest, by name, or by a unique prefix of its digest.

        Raises:
            Misuse: several people have uploaded different apps of this name, or the prefix is not unique.
        """
        if text in self.apps:
            return self.apps[text]
        named = [app for app in self.apps.values() if app.name == text]
        if len({app.uploaded_by for app in named}) > 1:
            choices = ", ".join(f"{app.digest[:12]} by {app.uploaded_by.rpartition('/')[2]}" for app in named)
            raise Misuse(f"several people have an app named {text!r}: {choices}", hint="name its digest")
        if named:
            return max(named, key=lambda app: app.uploaded_at)
        return self.apps[match_prefix(text, self.apps, what="app")]

    def active_at(self, site: str) -> list[JobRun]:
        """Jobs that this site may hold."""
        states = (JobState.DEPLOYING, JobState.RUNNING)
        return [run for run in self._going.values() if run.record.state in states and site in run.sites.parts]

    async def watch(self, job_id: str) -> AsyncIterator[JobRun]:
        """The job now, and again after each change and as its sites move, until it has ended."""
        run = self._runs[job_id]
        while True:
            event = self._watchers.next(job_id)
            ended = run.record.state.terminal  # before the yield: what changes after it is shown, too
            yield run
            if ended:
                return
            await event.wait()
            if (many := len(run.record.targets)) > _FEW:  # what comes meanwhile is shown with it
                await self._clock.sleep(many * _PACE)

    # ---- changes -------------------------------------------------------------------------

    async def add_app(self, app: AppRecord) -> None:
        """Remember an uploaded app. The same bytes again change nothing."""
        if app.digest in self.apps:
            return
        row = Row(who=app.uploaded_by, what="app.upload", object=app.digest, data={"name": app.name})
        await commit_through(self._store, [Put("app", app.digest, to_document(app))], row)
        self.apps[app.digest] = app

    async def submit(self, submission: Submission, request: pb.SubmitRequest) -> tuple[JobRecord, bool]:
        """The job for this submission, and whether its token had made it before."""
        async with self._submitting:
            key = f"{submission.submitted_by}|{submission.token}"
            if key in self._tokens:
                return verify_same(self._of_token(key), submission), True
            now = self._clock.now()
            start = self._verify_origin(submission)
            job = JobRecord(
                id=self._new_id(),
                name=submission.spec.name,
                app=submission.app,
                spec=submission.spec,
                targets=tuple(sorted(submission.sites)),
                submission=request.submission.decode(),
                signature=request.signature.hex(),
                chain=request.chain.decode(),
                token=submission.token,
                submitted_by=submission.submitted_by,
                submitted_at=now,
                origin=submission.origin,
                base=submission.origin.round if submission.origin else 0,
                round=submission.origin.round if submission.origin else 0,
                model=start,
            )
            origin = to_document(submission.origin) if submission.origin else None
            data = {"app": job.app, **({"origin": origin} if origin else {})}
            with self._kept(start):
                await commit_through(
                    self._store,
                    [Put("job", job.id, to_document(job)), Put("token", key, {"job_id": job.id})],
                    Row(who=submission.submitted_by, what="job.submit", object=job.id, data=data),
                )
                self._tokens[key] = job.id
                run = self._add(job, {})
        self.scheduler.wake_for(run)
        return job, False

    def has_made(self, submission: Submission) -> bool:
        """Whether this token of its person has made a job before."""
        return f"{submission.submitted_by}|{submission.token}" in self._tokens

    def _of_token(self, key: str) -> JobRecord:
        run = self._runs.get(self._tokens[key])
        if run is None:
            raise Conflict(
                f"token {key.partition('|')[2]!r} has made job {self._tokens[key]}, which was deleted",
                hint="use another --token, or none",
            )
        return run.record

    def _verify_origin(self, submission: Submission) -> StateRef | None:
        """The saved state that a clone starts with; None: it starts from the start."""
        origin = submission.origin
        if origin is None:
            return None
        source = self._runs.get(origin.job_id)
        if source is None:
            raise NotFound(f"no job {origin.job_id!r} to clone", hint="flprov job ls")
        if source.record.app != submission.app:
            raise Conflict(
                f"job {origin.job_id} runs another app than its clone would: a clone has the same code",
                hint="flprov job submit APP",
            )
        if not origin.round:
            return None
        return find_checkpoint(source.record, self.rounds(origin.job_id), origin.round)

    @contextlib.contextmanager
    def _kept(self, state: StateRef | None) -> Iterator[None]:
        """No collection of these blobs: a record that names them is being written."""
        digests = Counter(state.digests if state else ())
        self._cloning += digests
        try:
            yield
        finally:
            self._cloning -= digests

    def _new_id(self) -> str:
        found = new_job_id(self._clock.now())
        taken = found in self._runs or found in self._tokens.values()  # also of jobs that were deleted
        return self._new_id() if taken else found

    async def delete(self, run: JobRun, who: str, reason: str, more: Sequence[Change] = ()) -> int:
        """Remove a job that has ended; returns how many rounds went with it. `more`: in one transaction.

        Raises:
            Conflict: it has not ended everywhere.
            NotFound: somebody else has just done so.
        """
        async with self._submitting:  # a clone of it may be under way
            self._verify_there(run)
            job, rounds = run.record, list(self.rounds(run.record.id))
            verify_removable(job, self._registry.sites.keys())
            data = {"name": job.name, "state": job.state.value, "rounds": len(rounds)}
            changes = changes_for_removal(job, rounds, run.rounds.updates())
            row = Row(who=who, what="job.delete", object=job.id, reason=reason, data=data)
            await commit_through(self._store, [*changes, *more], row)
            self._forget(job.id)
        try:
            await asyncio.to_thread(remove_folder, self._folder / job.id)
        finally:  # also when nobody waits for the answer any more
            self.collect(blobs_of(job, rounds))
        return len(rounds)

    def _forget(self, job_id: str) -> None:
        self._runs.pop(job_id)
        self._going.pop(job_id, None)
        self._kept_blobs.drop(job_id)
        self._rounds.pop(job_id, None)
        self._contributed.pop(job_id, None)
        self._checkpoints.pop(job_id, None)
        self.series.forget(job_id)
        loop = self._loops.pop(job_id, None)
        if loop is not None:  # it waited for a site that has left the project
            loop.cancel()
        self._watchers.tell(job_id)

    async def abort(self, run: JobRun, caller: Identity, reason: str, more: Sequence[Change] = ()) -> None:
        """Have a job end. That it will is on disk, with `more`, when this returns; its run does the rest.

        Raises:
            NotFound: it has ended already.
            LocalError: it could not be written down.
        """
        _verify_not_ended(run)
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.tell(ev.AbortAsked(who=caller.uri, reason=reason, recorded=recorded, more=tuple(more)))
        loop = self._loops.get(run.record.id)
        if loop is not None:
            await asyncio.wait([recorded, loop], return_when=asyncio.FIRST_COMPLETED)
        if not recorded.done():  # the run was over before it came to this
            _verify_not_ended(run)
            raise LocalError(f"nobody drives job {run.record.id} any more", hint="start the server again")
        recorded.result()

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call `listener(job id)` after each change of a job, from now on."""
        self._listeners.append(listener)

    def _on_change(self, job_id: str) -> None:
        run = self._runs.get(job_id)
        if run is None:
            return
        if not run.active:
            self._contributed.pop(job_id, None)
        if run.record.state.terminal:
            self.logs.tell(job_id, ended=True)
            self._blobs.drop_uploads(_senders(run))
            self._blobs.drop_spares()
            if not run.record.unconfirmed:
                if self._going.pop(job_id, None) is not None:
                    self._kept_blobs.put(job_id, self._blobs_of(run))
                self.series.end(job_id, run.record.state.value)
        self._watchers.tell(job_id)
        self.scheduler.changed(run)
        for listener in self._listeners:
            listener(job_id)

    def _on_session(self, session: Session, connected: bool) -> None:
        name = session.name
        event = ev.SiteCame(site=name) if connected else ev.SiteWent(site=name, reason=_left(session))
        for job_id in self._loops:
            run = self._runs[job_id]
            if name in run.sites.parts:
                run.tell(event)
        self.scheduler.met(name)

    def _keep_round(self, record: RoundRecord) -> None:
        """A round is over, or its checkpoint has gone."""
        rounds = self._rounds.setdefault(record.job_id, [])
        place = bisect.bisect_left(rounds, record.round, key=lambda known: known.round)
        if place == len(rounds):
            rounds.append(record)
            self.series.note_round(record)
        else:
            rounds[place] = record
        self._note_checkpoint(record)

    def _note_checkpoint(self, record: RoundRecord) -> None:
        kept = self._checkpoints.setdefault(record.job_id, {})
        if record.state is None:
            kept.pop(record.round, None)
        else:
            kept[record.round] = record

    def _told(self, job_id: str, said: pb.Progress) -> None:
        """Numbers of a job's workflow; where it names no step, the round is one."""
        now = self._clock.now().timestamp()
        number = self._runs[job_id].record.round
        step = number + 1 if said.counted else said.step
        points = [
            pb.Point(name=name, value=value, step=step, round=number, at=now)
            for name, value in said.values.items()
        ]
        self.series.tell(job_id, points, now)

    def collect(self, digests: Iterable[str]) -> list[str]:
        """Remove these blobs, save those that a record or an open round names, and uploads given up.

        What the disk does not let go of fails nobody's job: the next start, or `server gc`, tries again.

        Returns:
            What could not be removed, in words.
        """
        left: list[str] = []
        for digest in self.unneeded(digests):
            with _noting(left):
                self._blobs.remove(digest)
        if (now := self._clock.now()) >= self._prune_at:
            self._prune_at = now + _LOOK
            with _noting(left):
                self._blobs.prune(now - _GIVEN_UP)
        return left

    def unneeded(self, digests: Iterable[str]) -> set[str]:
        """Those of these blobs that no record and no open round names."""
        unsure = self._kept_blobs.missing(set(digests) - self.apps.keys() - self._cloning.keys())
        for run in self._going.values():
            if not unsure:
                break
            unsure -= self._blobs_of(run) | run.rounds.blobs()
            if not run.record.state.terminal:
                unsure -= run.workflow.taken
        return unsure

    def _blobs_of(self, run: JobRun) -> set[str]:
        return blobs_of(run.record, self.checkpoints(run.record.id))

    async def trim(self, run: JobRun, rounds: Sequence[RoundRecord], row: Row) -> None:
        """Let go of the saved states of these rounds of a job that has ended.

        Raises:
            NotFound: it was deleted meanwhile.
        """
        trimmed = [record.without_state() for record in rounds]
        async with self._submitting:  # nobody deletes it, and nobody clones it
            self._verify_there(run)
            puts = [Put("round", one.key, to_document(one)) for one in trimmed]
            await commit_through(self._store, puts, row)
            for record in trimmed:
                self._keep_round(record)
            if run.record.id not in self._going:
                self._kept_blobs.put(run.record.id, self._blobs_of(run))
        self.collect(set[str]().union(*(record.state.digests for record in rounds if record.state)))

    def _verify_there(self, run: JobRun) -> None:
        if run.record.id not in self._runs:
            raise NotFound(f"job {run.record.id} was deleted", hint="flprov job ls")

    def _model_size(self, job: JobRecord) -> int:
        app = self.apps.get(job.app)
        return app.model_size(job.spec.model) if app else 0

    # ---- the scheduler -------------------------------------------------------------------

    def wake(self) -> None:
        """Something that the scheduler looks at has changed."""
        self.scheduler.wake()

    async def run_scheduler(self) -> None:
        """Start jobs whenever something changed that may let one start."""
        await self.scheduler.run()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Inside, no search for garbage: among many thousand records that stay it takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _left(session: Session) -> str:
    """What is said of a site that has gone by its own decision; empty: its connection broke."""
    reason = str(getattr(session, "leaving", ""))
    return f"it has left: {reason}" if reason else ""


def _verify_not_ended(run: JobRun) -> None:
    if run.record.state.terminal:
        raise NotFound(
            f"job {run.record.id} has ended ({run.record.state.value}); there is nothing to abort",
            hint=f"flprov job show {run.record.id}",
        )


def _senders(run: JobRun) -> Iterator[str]:
    """The owners of what sites have begun to upload for this job (transfers.py)."""
    return (f"{run.record.id}/{site}" for site in run.record.targets)


@contextlib.contextmanager
def _noting(left: list[str]) -> Iterator[None]:
    try:
        yield
    except LocalError as error:
        left.append(str(error))
        logger.warning("%s; it is tried again at the next start", error)
