# SPDX-License-Identifier: Apache-2.0
"""All jobs of a server: loaded at start, submitted, scheduled, aborted, looked up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from flprov._base import Clock, from_document, to_document
from flprov.blobs import BlobStore
from flprov.errors import LocalError, Misuse, NotFound
from flprov.jobs import JobState, Submission, match_prefix, new_job_id
from flprov.pki import Identity
from flprov.server.jobs import events as ev
from flprov.server.jobs.run import JobRun, Surroundings
from flprov.server.jobs.scheduling import Scheduler
from flprov.server.jobs.submissions import verify_same
from flprov.server.logs import LogBook
from flprov.server.records import AppRecord, JobRecord, RoundRecord, UpdateRecord
from flprov.server.registry import Registry
from flprov.server.sessions import Session, Sessions
from flprov.store import Put, Row, Store
from flprov.wire import pb
from flprov.workers import Launcher

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
    ) -> None:
        self._store = store
        self._clock = clock
        self._blobs = blobs
        self._sessions = sessions
        self._registry = registry
        self.logs = logs
        self._runs: dict[str, JobRun] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._rounds: dict[str, list[RoundRecord]] = {}
        self._tokens: dict[str, str] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._listeners: list[Callable[[str], None]] = []
        self.scheduler = Scheduler(runs=self.all, sessions=sessions, registry=registry)
        self._submitting = asyncio.Lock()
        self.apps: dict[str, AppRecord] = {}
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
            collect=self.collect,
        )
        sessions.listen(self._on_session)

    # ---- from disk -----------------------------------------------------------------------

    def load(self) -> None:
        """Read every record; jobs that have not ended go on. Blobs that no record names are removed."""
        self.apps = self._read("app", AppRecord)
        self._tokens = {key: str(value["job_id"]) for key, value in self._store.load("token").items()}
        for record in self._read("round", RoundRecord).values():
            self._rounds.setdefault(record.job_id, []).append(record)
        for rounds in self._rounds.values():
            rounds.sort(key=lambda record: record.round)
        updates = self._read("update", UpdateRecord)
        for job in sorted(self._read("job", JobRecord).values(), key=lambda job: (job.submitted_at, job.id)):
            known = {key: update for key, update in updates.items() if update.job_id == job.id}
            self._add(job, known)
        self.collect(self._blobs.digests())

    def _read(self, kind: str, record: type[T]) -> dict[str, T]:
        return {key: from_document(record, value) for key, value in self._store.load(kind).items()}

    def _add(self, job: JobRecord, known: dict[str, UpdateRecord]) -> JobRun:
        run = self._runs[job.id] = JobRun(job, self._around, known)
        if job.state.terminal:
            self.logs.tell(job.id, ended=True)
        if not job.state.terminal or job.unconfirmed:
            self._loops[job.id] = asyncio.create_task(self._drive(run), name=f"job {job.id}")
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
        return sorted(self._runs.values(), key=lambda run: (run.record.submitted_at, run.record.id))

    def rounds(self, job_id: str) -> list[RoundRecord]:
        """The rounds of a job that are over."""
        return self._rounds.get(job_id, [])

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
        return [
            run for run in self._runs.values() if run.record.state in states and site in run.record.targets
        ]

    async def watch(self, job_id: str) -> AsyncIterator[JobRun]:
        """The job now, and again after each change, until it has ended."""
        run = self._runs[job_id]
        while True:
            event = self._changed.setdefault(job_id, asyncio.Event())
            ended = run.record.state.terminal  # before the yield: what changes after it is shown, too
            yield run
            if ended:
                return
            await event.wait()

    # ---- changes -------------------------------------------------------------------------

    async def add_app(self, app: AppRecord) -> None:
        """Remember an uploaded app. The same bytes again change nothing."""
        if app.digest in self.apps:
            return
        row = Row(who=app.uploaded_by, what="app.upload", object=app.digest, data={"name": app.name})
        await self._store.commit([Put("app", app.digest, to_document(app))], row)
        self.apps[app.digest] = app

    async def submit(self, submission: Submission, request: pb.SubmitRequest) -> tuple[JobRecord, bool]:
        """The job for this submission, and whether its token had made it before."""
        async with self._submitting:
            key = f"{submission.submitted_by}|{submission.token}"
            if key in self._tokens:
                return verify_same(self._runs[self._tokens[key]].record, submission), True
            now = self._clock.now()
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
            )
            await self._store.commit(
                [Put("job", job.id, to_document(job)), Put("token", key, {"job_id": job.id})],
                Row(who=submission.submitted_by, what="job.submit", object=job.id, data={"app": job.app}),
            )
            self._tokens[key] = job.id
            self._add(job, {})
        self.scheduler.wake()
        return job, False

    def _new_id(self) -> str:
        found = new_job_id(self._clock.now())
        return self._new_id() if found in self._runs else found

    async def abort(self, run: JobRun, caller: Identity, reason: str) -> None:
        """Have a job end. That it will is on disk when this returns; its run does the rest.

        Raises:
            NotFound: it has ended already.
            LocalError: it could not be written down.
        """
        _verify_not_ended(run)
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        run.tell(ev.AbortAsked(who=caller.uri, reason=reason, recorded=recorded))
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
        run = self._runs[job_id]
        if run.record.round > len(self._rounds.get(job_id, [])):
            stored = self._store.get("round", f"{job_id}/{run.record.round - 1:06d}")
            if stored is not None:
                self._rounds.setdefault(job_id, []).append(from_document(RoundRecord, stored))
        if run.record.state.terminal:
            self.logs.tell(job_id, ended=True)
        event = self._changed.pop(job_id, None)
        if event is not None:
            event.set()
        if run.record.state is not JobState.RUNNING:
            self.scheduler.wake()
        for listener in self._listeners:
            listener(job_id)

    def _on_session(self, session: Session, connected: bool) -> None:
        kind: Callable[..., ev.Event] = ev.SiteCame if connected else ev.SiteWent
        for run in self._runs.values():
            if run.record.id in self._loops and session.name in run.record.targets:
                run.tell(kind(site=session.name))
        self.scheduler.wake()

    def collect(self, digests: Iterable[str]) -> None:
        """Remove these blobs, save those that a record or an open round names, and uploads given up."""
        needed = set(self.apps)
        for run in self._runs.values():
            refs = [*run.record.results.values(), *([run.record.model] if run.record.model else [])]
            needed |= {ref.digest for ref in refs} | run.rounds.blobs()
        for digest in set(digests) - needed:
            self._blobs.remove(digest)
        self._blobs.prune(self._clock.now() - _GIVEN_UP)

    # ---- the scheduler -------------------------------------------------------------------

    def wake(self) -> None:
        """Something that the scheduler looks at has changed."""
        self.scheduler.wake()

    async def run_scheduler(self) -> None:
        """Start jobs whenever something changed that may let one start."""
        await self.scheduler.run()


def _verify_not_ended(run: JobRun) -> None:
    if run.record.state.terminal:
        raise NotFound(
            f"job {run.record.id} has ended ({run.record.state.value}); there is nothing to abort",
            hint=f"flprov job show {run.record.id}",
        )
