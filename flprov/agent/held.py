# SPDX-License-Identifier: Apache-2.0
"""The jobs that this site holds, and what the server says about them."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flprov._base import Clock, Tasks
from flprov.agent.admission import Admitted, admit, names_folder
from flprov.agent.answers import Answers
from flprov.agent.bulk import Bulk
from flprov.agent.config import AgentConfig
from flprov.agent.jobrecord import Begun, OpenTasks, blobs_of, deploy_again, job_record, verify_same
from flprov.agent.leases import HeldLease, Leases
from flprov.agent.probing import examine
from flprov.agent.promises import Promises
from flprov.agent.sitejob import MOST_TRIES, SiteJob, killed_in_words, note_in_log, refusal_of
from flprov.agent.surroundings import Tools
from flprov.agent.trust import SiteTrust
from flprov.agent.vitals import GPUs, read_vitals
from flprov.blobs import BlobStore, digest_of
from flprov.errors import FlprovError, LocalError, ProtocolError, Refused
from flprov.store import Delete, Put, Row, Store
from flprov.wire import pb
from flprov.wire.documents import Vitals
from flprov.workers import ExitRecord, Launcher, reap_leftovers

logger = logging.getLogger(__name__)

_MOST_PROBES = 16  # at a time: each looks at the machine, and may ask the interpreter for its packages
_HALF_A_BLOB = timedelta(days=7)  # so long the beginning of a transfer is kept for its rest to come


class SiteJobs:
    """Every message about a job ends here. All of them may come twice."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        clock: Clock,
        store: Store,
        blobs: BlobStore,
        bulk: Bulk,
        launcher: Launcher,
        gpus: GPUs,
        trust: SiteTrust | None = None,
        report: Callable[[pb.FromSite], None],
        leases_changed: Callable[[], None] = lambda: None,
        orphan_seconds: float = 60.0,
    ) -> None:
        self._config = config
        self._trust = trust or SiteTrust(config.kit, config.state)
        self._clock = clock
        self._store = store
        self._blobs = blobs
        self._report = report
        self._answers = Answers(store)
        self._tasks = OpenTasks(store)
        self._interrupted: dict[str, str] = {}  # jobs whose processes are gone, and why
        self._unclean: set[str] = set()  # jobs of which something could not be killed at our start
        self._jobs: dict[str, SiteJob] = {}
        self._accepted: dict[str, str] = {}  # job -> app: admitted here, now or before a restart
        self._tokens: dict[str, str] = {}
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._refusing: set[str] = set()  # jobs that are being ended because they were refused
        self._waiting: dict[str, pb.Deploy] = {}  # for the stop of the same job to end
        self._work = Tasks("jobs")
        self._probing = 0  # questions that are being examined
        self._gpus = gpus
        self.leases = Leases(store, clock, self._measure, on_change=leases_changed)
        self._tools = Tools(
            site=config.kit.name,
            clock=clock,
            blobs=blobs,
            bulk=bulk,
            launcher=launcher,
            leases=self.leases,
            private=(config.kit.folder, config.policy, config.settings),
            answers=self._answers,
            tasks=self._tasks,
            promises=Promises(store),
            orphan_seconds=orphan_seconds,
            collect=self._collect,
            report=report,
        )

    @property
    def folder(self) -> Path:
        """Where the jobs' folders are."""
        return self._config.state / "jobs"

    async def load(self) -> None:
        """Read what an earlier run left, and go on with its processes where that can be."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        records = self._store.load("job")
        self._accepted = {job_id: str(value.get("app") or "") for job_id, value in records.items()}
        self._tokens = {key: str(value["job_id"]) for key, value in self._store.load("token").items()}
        self._answers.load()
        await self._answers.forget_lost(self._blobs.has, records.keys())
        self._tasks.load()
        for job_id in records:
            if (begun := self._tasks.get(job_id)) is not None:  # the rounds before that of its task are saved
                self._answers.let_go(job_id, up_to=begun.order.round - 1)
        self.leases.load()
        # Before any process is taken back: what it then hands over is named by nobody yet.
        needed = {job_id: self._open_blobs(job_id) for job_id in records}
        self._collect(self._blobs.digests() - set[str]().union(*needed.values()))
        await asyncio.gather(*(self._take_back(job_id, value) for job_id, value in records.items()))
        for left in self.folder.iterdir():
            if left.name not in self._jobs:
                await asyncio.to_thread(reap_leftovers, left)
        for job_id in self.leases.all.keys() - self._jobs.keys() - self._unclean:
            await self.leases.release(job_id)
        for job_id in needed.keys() - self._jobs.keys():
            self._collect(needed[job_id])
        self._blobs.prune(self._clock.now() - _HALF_A_BLOB)

    async def _take_back(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Adopt the job's process, or end it for a reason that is told; the server deploys it again then."""
        reason = ""
        try:
            message = deploy_again(job_id, record)
            admitted = self._readmit(message)
            verify_same(record, admitted)
        except FlprovError as error:
            reason = f"the job's process was ended, because {error}"
        else:
            process = await self._tools.launcher.adopt(self.folder / job_id)
            if process is not None:
                job = self._jobs[job_id] = SiteJob(
                    job_id=job_id, admitted=admitted, folder=self.folder / job_id, tools=self._tools
                )
                job.take_back(process, self._open_task(job_id))
                await self._store.commit([], Row(who="site", what="job.adopt", object=job_id))
                return
        left = await asyncio.to_thread(reap_leftovers, self.folder / job_id)
        if left.remaining:
            self._unclean.add(job_id)
        if left.record is not None:
            await self._note_interrupted(job_id, reason, left.record)

    def _open_task(self, job_id: str) -> Begun | None:
        begun = self._tasks.get(job_id)
        answered = begun is not None and self._answers.get(job_id, begun.order.task_id) is not None
        return None if answered else begun

    def _open_blobs(self, job_id: str) -> set[str]:
        begun = self._open_task(job_id)
        return blobs_of(begun.order) if begun is not None else set()

    def _readmit(self, message: pb.Deploy) -> Admitted:
        """As at admission, but for the time until which the submission was fresh."""
        return admit(
            message,
            config=self._config,
            now=self._clock.now(),
            jobs_here=len(self._jobs),
            token_job=message.job_id,
            known=True,
            people=self._trust.people,
            revoked_people=self._trust.revoked_people,
        )

    async def _note_interrupted(self, job_id: str, reason: str, record: ExitRecord) -> None:
        """The job's process is gone. Its open task is done again, unless the process ended by its own fault
        or was killed too often.
        """
        own_fault = not record.stopped and not record.outside
        begun = self._open_task(job_id)
        if begun is None and own_fault:  # it had ended before, and that was told
            return
        ended = f"the job's process ended: {record.reason}"
        why = reason or (ended if own_fault else killed_in_words(record.reason))
        logger.warning("job %s: %s", job_id, why)
        row = Row(who="site", what="job.interrupt", object=job_id, outcome="failed", reason=why)
        await self._store.commit([], row)
        self._interrupted[job_id] = why
        await asyncio.to_thread(note_in_log, self.folder / job_id, why)
        if begun is not None and (own_fault or (record.outside and begun.tries >= MOST_TRIES)):
            last = "" if own_fault else f"; this was try {begun.tries} of {MOST_TRIES}"
            failure = pb.Failure(code="job-failed", message=why + last)
            answer = pb.TaskAnswer(job_id=job_id, task_id=begun.order.task_id, failure=failure)
            await self._answers.keep(answer, round=begun.order.round, also=self._tasks.end(job_id))
        elif begun is not None and record.outside:
            self._tasks.begin(job_id, begun.order, tries=begun.tries + 1)
            await self._tasks.keep(job_id)

    def _measure(self, held: Mapping[str, HeldLease]) -> Vitals:
        config = self._config
        return read_vitals(
            self._gpus,
            state=config.state,
            policy=config.policy,
            settings=config.settings,
            python=config.python,
            held=held,
        )

    @property
    def ids(self) -> list[str]:
        """Jobs that this site holds in any way."""
        return sorted(self._accepted.keys() | self._jobs.keys())

    @property
    def running(self) -> list[str]:
        """Jobs with a live process."""
        return sorted(self._jobs)

    def states(self) -> dict[str, str]:
        """How far each job is."""
        return {job_id: job.state for job_id, job in sorted(self._jobs.items())}

    def since(self) -> dict[str, datetime]:
        """Since when each job is that far, where that is known."""
        return {job_id: job.since for job_id, job in self._jobs.items() if job.since is not None}

    # ---- what the server says ------------------------------------------------------------

    def welcome(self, active: list[str]) -> None:
        """After a connect: end what should not be here, repeat what the server may have missed."""
        for job_id in self.ids:
            if job_id not in active:
                self.stop(job_id, "the server does not run it any more", grace=1.0)
                continue
            job = self._jobs.get(job_id)
            for answer in self._answers.of(job_id) if job else ():
                assert job is not None
                job.send_answer(answer)

    def deploy(self, message: pb.Deploy) -> None:
        """Admit and prepare a job, after the stop of it that may be under way; the answer is Deployed."""
        if message.job_id in self._stopping or message.job_id in self._refusing:
            self._waiting[message.job_id] = message
        else:
            self._work.spawn(self._deploy(message))

    async def _deploy(self, message: pb.Deploy) -> None:
        job_id = message.job_id
        held = self._jobs.get(job_id)
        if held is not None:
            if held.stopped:
                left = LocalError(f"what ran of job {job_id} before could not be ended here")
                await self._refuse(job_id, left)
            elif held.state != "deploying":
                self._report(pb.FromSite(deployed=pb.Deployed(job_id=job_id, ready=True)))
            return
        job: SiteJob | None = None
        try:
            job = await self._admit(message)
            await job.deploy(message.app_size, message.model_size, message.app)
        except FlprovError as error:
            if job is None or not job.stopped:
                await self._refuse(job_id, error)
        except Exception:  # the outermost of its task: a fault of ours must not leave the server waiting
            logger.exception("job %s could not be deployed", job_id)
            if job is None or not job.stopped:
                await self._refuse(job_id, LocalError("internal error at the site; its log has the details"))
        else:
            if why := self._interrupted.pop(job_id, ""):
                job.say_doing(f"started again: {why}")
            for answer in self._answers.of(job_id):
                job.send_answer(answer)
            self._report(pb.FromSite(deployed=pb.Deployed(job_id=job_id, ready=True)))

    async def _admit(self, message: pb.Deploy) -> SiteJob:
        job_id, key = message.job_id, _token_key(message)
        known = self._tokens.get(key) == job_id
        if job_id in self._accepted and not known:
            raise ProtocolError(
                f"another submission came under the id of job {job_id}, which is here already"
            )
        admitted = admit(
            message,
            config=self._config,
            now=self._clock.now(),
            jobs_here=len(self._jobs),
            token_job=self._tokens.get(key),
            known=known and job_id in self._accepted,
            people=self._trust.people,
            revoked_people=self._trust.revoked_people,
        )
        submission = admitted.submission
        self._tokens[key] = job_id  # before anything is awaited: of two deploys at once, one is a replay
        job = self._jobs[job_id] = SiteJob(
            job_id=job_id, admitted=admitted, folder=self.folder / job_id, tools=self._tools
        )
        record = job_record(message, admitted)
        if job_id not in self._accepted:
            row = Row(
                who=submission.submitted_by, what="job.accept", object=job_id, data={"app": submission.app}
            )
            changes = [Put("job", job_id, record), Put("token", key, {"job_id": job_id})]
            await self._store.commit(changes, row)
            self._accepted[job_id] = submission.app
        elif self._store.get("job", job_id) != record:  # site.yml, or what is kept of a job, has changed
            await self._store.commit([Put("job", job_id, record)], None)
        return job

    async def _refuse(self, job_id: str, error: FlprovError) -> None:
        logger.warning("job %s refused: %s", job_id, error)
        outcome = "refused" if isinstance(error, Refused) else "failed"
        row = Row(who="site", what="job.accept", object=job_id, outcome=outcome, reason=str(error))
        try:
            await self._store.commit([], row)
        except LocalError as unwritten:  # a full disk: whoever waits for the answer gets it all the same
            logger.warning("that job %s was refused could not be written down: %s", job_id, unwritten)
        if job_id in self._jobs and await self._end_refused(job_id, str(error)):
            return  # the answer to the newer order is the one that counts
        self._report(pb.FromSite(deployed=pb.Deployed(job_id=job_id, ready=False, refused=refusal_of(error))))

    async def _end_refused(self, job_id: str, reason: str) -> bool:
        """End a job that was refused; whether it was ordered once more meanwhile, and is begun anew."""
        self._refusing.add(job_id)
        try:
            await self._stop(job_id, reason, 0.0, tell=False)
        except Exception:  # it stays here as one that is being stopped; the answer is due all the same
            logger.exception("job %s, which was refused, could not be ended", job_id)
        finally:
            self._refusing.discard(job_id)
        if job_id in self._stopping or job_id not in self._waiting:
            return False
        self._work.spawn(self._deploy(self._waiting.pop(job_id)))
        return True

    def order(self, message: pb.TaskOrder) -> None:
        """A task for a job that is deployed here."""
        job = self._jobs.get(message.job_id)
        if job is not None:
            job.order(message)  # first: it names blobs that older answers name as well
            if message.round:  # the rounds before it are saved, also when that word was lost on the way
                self._drop_up_to(message.job_id, message.round - 1)

    def foretold(self, message: pb.Upcoming) -> None:
        """The model that a job here will probably be given next."""
        job = self._jobs.get(message.job_id)
        if job is not None:
            job.prefetch(message.model)

    def acknowledged(self, message: pb.AnswerAck) -> None:
        """The server has the answer on disk, refused it, or wants it again. It is kept all the same."""
        answer = self._answers.get(message.job_id, message.task_id)
        if message.refused.code == "unavailable" and answer is not None:
            job = self._jobs.get(message.job_id)
            if job is not None:
                job.send_answer(answer)
        elif message.HasField("refused"):
            level = logging.INFO if message.late else logging.WARNING
            logger.log(level, "job %s, task %s: %s", message.job_id, message.task_id, message.refused.message)

    def probe(self, message: pb.Probe) -> None:
        """Would this site run that job? Of a flood of questions some have no answer."""
        if self._probing < _MOST_PROBES:
            self._probing += 1
            self._work.spawn(self._probe(message))

    async def _probe(self, message: pb.Probe) -> None:
        try:
            probed = await examine(
                message,
                config=self._config,
                now=self._clock.now(),
                jobs_here=len(self._jobs),
                people=self._trust.people,
                revoked_people=self._trust.revoked_people,
                leases=self.leases,
            )
        finally:
            self._probing -= 1
        self._report(pb.FromSite(probed=probed))

    def closed(self, message: pb.RoundClosed) -> None:
        """The round is saved at the server: its answers are not needed here any more."""
        self._drop_up_to(message.job_id, message.round)

    def _drop_up_to(self, job_id: str, number: int) -> None:
        dropped = self._answers.let_go(job_id, up_to=number)
        if dropped:  # later: a task that came with the word names its model first, and may name one of these
            asyncio.get_running_loop().call_soon(self._collect, dropped)

    def stop(self, job_id: str, reason: str, grace: float) -> None:
        """End a job here and prove it; a job that is not here is proven at once."""
        self._waiting.pop(job_id, None)
        if job_id not in self._stopping:
            task = self._work.spawn(self._stop(job_id, reason, grace))
            self._stopping[job_id] = task
            task.add_done_callback(lambda done: self._stopped(job_id, done))

    def _stopped(self, job_id: str, done: asyncio.Task[None]) -> None:
        self._stopping.pop(job_id, None)
        waiting = self._waiting.pop(job_id, None)
        if waiting is not None and not done.cancelled():
            self._work.spawn(self._deploy(waiting))

    async def _stop(self, job_id: str, reason: str, grace: float, *, tell: bool = True) -> None:
        job = self._jobs.get(job_id)
        left: tuple[int, ...] = ()
        freed: tuple[str, ...] = ()
        ended = 0
        if job is not None:
            left = await job.stop(reason, grace)
            ended = job.ended
        elif names_folder(job_id):
            left, ended = await asyncio.to_thread(self._clear, job_id)
        if not left:
            freed = (*await self.leases.release(job_id), *_in_words(ended))
            await self._forget(job_id, reason)
        if tell:
            note = f"processes {', '.join(map(str, left))} could not be killed" if left else ""
            stopped = pb.Stopped(job_id=job_id, clean=not left, processes=left, reason=note, freed=freed)
            self._report(pb.FromSite(stopped=stopped))

    def _clear(self, job_id: str) -> tuple[tuple[int, ...], int]:
        """What is left of a job that an earlier run had here, and how many processes were ended."""
        found = reap_leftovers(self.folder / job_id)
        if not found.remaining:  # else the record stays by which they are found again
            shutil.rmtree(self.folder / job_id, ignore_errors=True)
        return found.remaining, len(found.found)

    async def _forget(self, job_id: str, reason: str) -> None:
        self._jobs.pop(job_id, None)
        self._blobs.drop_uploads([job_id])
        self._collect(await self._answers.drop(job_id))
        if job_id in self._accepted:
            app = self._accepted.pop(job_id)
            row = Row(who="site", what="job.stop", object=job_id, reason=reason)
            changes = [Delete("job", job_id), *self._tasks.end(job_id)]
            await self._store.commit(changes, row, urgent=True)
            self._collect({app} - {""})
        self._blobs.drop_spares()

    def _collect(self, digests: set[str]) -> None:
        """Remove blobs that no job here names any more."""
        if not digests:
            return
        needed = {held.admitted.submission.app for held in self._jobs.values()} | self._answers.blobs()
        needed.update(self._accepted.values(), *(held.blobs for held in self._jobs.values()))
        for digest in digests - needed:
            self._blobs.remove(digest)

    async def leave(self) -> None:
        """The agent restarts: let go of every process without ending it, for `load` to take it back."""
        await asyncio.gather(*(job.leave() for job in self._jobs.values()), return_exceptions=True)
        await self._work.close()

    async def close(self) -> None:
        """The agent stops: no process of any job stays behind."""
        await asyncio.gather(*(job.close() for job in self._jobs.values()), return_exceptions=True)
        await self._work.close()


def _in_words(processes: int) -> tuple[str, ...]:
    """What was ended, for whoever is told that a job is gone."""
    return (f"{processes} process" + ("es" if processes > 1 else ""),) if processes else ()


def _token_key(message: pb.Deploy) -> str:
    """What a submission may be used for once: the bytes that the person signed.

    Not the signature: whoever has one over these bytes can make another that is as valid (of an ECDSA
    signature (r, s), it is (r, -s)).
    """
    return digest_of(message.submission)
