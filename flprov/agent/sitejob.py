# SPDX-License-Identifier: Apache-2.0
"""One job at this site and its process: deployed, started, listened to, started again when killed, ended.

What goes to the process is in `handover.py`, what it says in `hearing.py`, what becomes of that in
`answering.py`; `surroundings.py` has what they share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from datetime import datetime
from pathlib import Path

from flprov._base import Tasks, canonical_json
from flprov.agent.admission import Admitted
from flprov.agent.answering import Answering
from flprov.agent.handover import HandOver
from flprov.agent.hearing import Hearing
from flprov.agent.jobrecord import Begun
from flprov.agent.logs import LogSender
from flprov.agent.redaction import Redactor
from flprov.agent.sitefilters import SiteFilters, describe_rules
from flprov.agent.surroundings import SiteWork, Tools
from flprov.agent.telling import Telling
from flprov.agent.updates import clear_out
from flprov.blobs import digest_of
from flprov.errors import FlprovError, JobFailed, NotFound, PolicyRefused
from flprov.jobs import check_needs, job_needs, unpack_bundle
from flprov.wire import failure_of, pb
from flprov.workers import ExitRecord, LaunchOrder, LogSegments, Process, Starting, reap_leftovers

logger = logging.getLogger(__name__)

MOST_TRIES = 3  # of one task, by processes that are killed from outside one after the other
_FAREWELL = 30.0  # seconds in which a process ends that has closed its channel
_LAST_WORD = 0.5  # seconds in which a process takes the word that it is to end, before it is ended


class SiteJob:
    """The job's folder and process.

    Attributes:
        admitted: what the site has agreed to.
        ended: processes that were alive when the job was stopped.
    """

    def __init__(self, *, job_id: str, admitted: Admitted, folder: Path, tools: Tools) -> None:
        self.job_id = job_id
        self.admitted = admitted
        self.folder = folder
        self.tools = tools
        self.ended = 0
        self._starting = Starting(tools.launcher)
        self._process: Process | None = None
        self._log: LogSender | None = None
        self._tasks = Tasks("site job")
        self._fetching: asyncio.Task[None] | None = None
        self._up = asyncio.Lock()
        self._redactor = Redactor(admitted.logs.redact)
        most = admitted.submission.spec.sites.max_weight
        filters = SiteFilters(admitted.filters, tools.site, job_id, folder, tools.blobs, most)
        self._work = work = SiteWork(job_id=job_id, tools=tools)
        self._telling = telling = Telling(work)
        self._answering = Answering(work, admitted, self._redactor, telling, self._tasks)
        self._handover = HandOver(
            work,
            admitted,
            folder,
            filters,
            self._answering,
            tasks=self._tasks,
            fetch=self._fetch,
            worker=self._living,
        )
        self._hearing = Hearing(
            work,
            admitted,
            folder / "out",
            filters,
            handover=self._handover,
            answering=self._answering,
            telling=telling,
        )

    @property
    def state(self) -> str:
        """How far it is: deploying, ready, training, stopping."""
        return self._work.state

    @property
    def since(self) -> datetime | None:
        """Since when it is that far."""
        return self._work.since

    @property
    def blobs(self) -> set[str]:
        """What it needs of the site's blobs, besides its app and the answers that are kept."""
        return self._work.models | self._work.taking

    @property
    def stopped(self) -> bool:
        """Its end was asked for: what fails from then on is nobody's news."""
        return self._work.over

    def order(self, order: pb.TaskOrder) -> None:
        """Do a task. The same order again is answered again, not done again."""
        self._handover.order(order)

    def prefetch(self, model: pb.Payload) -> None:
        """Fetch the model that probably comes next."""
        self._handover.prefetch(model)

    def send_answer(self, answer: pb.TaskAnswer) -> None:
        """Send a kept answer once more."""
        self._answering.send(answer)

    def say_doing(self, text: str) -> None:
        """Let the server know, if it is there to be told."""
        self._telling.say_doing(text)

    # ---- deploy --------------------------------------------------------------------------

    async def deploy(self, app_size: int, model_size: int = 0, brought: bytes = b"") -> None:
        """Fetch and unpack the app, check what it needs, start its worker. Raises what stands against it.

        Args:
            app_size: bytes of the app.
            model_size: bytes of the model in it.
            brought: the app, if it came with the order.
        """
        app = self.admitted.submission.app
        async with self._up:
            self._verify_wanted()
            await self._lease(app_size, model_size)
        if digest_of(brought) == app:
            await self.tools.blobs.put(brought)
        else:
            await self._fetch(app, app_size, "fetching app", durable=True)
        async with self._up:
            self._verify_wanted()
            await asyncio.to_thread(self._prepare, app)
            spec = self.admitted.submission.spec
            if needs := job_needs(spec):
                await asyncio.to_thread(_verify_needs, needs, self.admitted.python)
            for line in describe_rules(self.admitted.filters, spec.workflow.rounds):
                await self._note_in_log(f"policy.yml of this site: {line}")
            await self._start()
            self._work.be("ready")

    async def _lease(self, app_size: int = 0, model_size: int = 0) -> tuple[str, ...]:
        """What the job asks for, or the lease that it has; returns its GPUs."""
        spec = self.admitted.submission.spec
        held = await self.tools.leases.lease(
            self.job_id, spec.resources, name=spec.name, app_size=app_size, model_size=model_size
        )
        return held.gpus

    async def _fetch(
        self, digest: str, size: int, doing: str, base: str = "", *, durable: bool = False
    ) -> None:
        """Bring a blob here; a stop ends it."""
        self._verify_wanted()
        self._fetching = asyncio.create_task(
            self.tools.bulk.fetch(
                self.job_id, digest, size, self._telling.of_bytes(doing), durable=durable, base=base
            )
        )
        try:
            await self._fetching
        except asyncio.CancelledError:
            self._verify_wanted()
            raise

    def _verify_wanted(self) -> None:
        if self._work.over:
            raise JobFailed(f"job {self.job_id} was stopped")

    def _prepare(self, app: str) -> None:
        reap_leftovers(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("app", "in", "out", "taken", "work"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            if name != "app":
                (self.folder / name).mkdir(mode=0o700)
        unpack_bundle(self.tools.blobs.path(app), self.folder / "app")

    async def _start(self) -> None:
        admitted, tools = self.admitted, self.tools
        wanted = admitted.submission.spec.resources
        leased = await self._lease()
        self._process = process = await self._starting.launch(
            LaunchOrder(
                job_id=self.job_id,
                folder=self.folder,
                main="site",
                python=admitted.python,
                readable=tuple(admitted.datasets.values()),
                private=tools.private,
                gpus=leased,
                unconfined=admitted.unconfined,
                grace=wanted.grace_seconds,
                log_limit=admitted.logs.cap,
                orphan_seconds=tools.orphan_seconds,
            )
        )
        self._work.handed, self._work.confinement = "", process.confinement
        self._hearing.begin(back=False)
        self._log = self._make_log_sender(process.log)
        process.on_log(self._log.grew)
        start = pb.StartSite(
            job_id=self.job_id,
            site=self.tools.site,
            spec=canonical_json(admitted.submission.spec),
            datasets={name: str(path) for name, path in admitted.datasets.items()},
            statistics=canonical_json(admitted.statistics),
            he_secret=admitted.he_secret,
        )
        self._tasks.spawn(self._listen(process))
        with contextlib.suppress(JobFailed):  # it has ended: who listens to it says so
            await process.channel.send(pb.ToWorker(start_site=start))

    def take_back(self, process: Process, begun: Begun | None) -> None:
        """Go on with a process that an earlier run of the agent has started."""
        self._process, self._work.confinement = process, process.confinement
        self._hearing.begin(back=True)
        self._log = self._make_log_sender(process.log)
        process.on_log(self._log.grew)
        if begun is not None:
            self._handover.take_up(begun)
        self._work.be("ready" if begun is None else "training")
        self._tasks.spawn(self._listen(process))

    def _make_log_sender(self, log: Path) -> LogSender:
        return LogSender(
            self.tools.bulk,
            self.job_id,
            log,
            rules=self.admitted.logs,
            redactor=self._redactor,
            clock=self.tools.clock,
        )

    async def _living(self) -> Process | None:
        """The process, which is started when there is none."""
        async with self._up:
            self._verify_wanted()
            if self._process is None:
                await asyncio.to_thread(clear_out, self.folder / "out")
                await self._start()
            return self._process

    # ---- its process ends --------------------------------------------------------------------

    async def _listen(self, process: Process) -> None:
        reason = ""
        try:
            while (frame := await process.channel.receive()) is not None:
                await self._hearing.said(frame)
        except FlprovError as error:
            reason = str(error)
        record = await self._see_off(process, _LAST_WORD if reason else _FAREWELL)
        if self._process is process:
            self._process = None
        if self._work.over:
            return
        if record.outside and not record.remaining:
            await self._begin_again(record.reason)
        elif (order := self._work.order) is not None:
            why = reason or f"the job's process ended: {record.reason}"
            await self._answering.fail(order, pb.Failure(code="job-failed", message=why))

    async def _see_off(self, process: Process, seconds: float) -> ExitRecord:
        """How a process ended that says nothing more. One that was killed in the middle of a word ends by
        itself; who goes on without a channel is ended.
        """
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            await process.stop(self.admitted.submission.spec.resources.grace_seconds)
            return await process.wait()

    async def _begin_again(self, reason: str) -> None:
        """The process was ended by somebody who is neither the job nor us: do the open task once more."""
        what = killed_in_words(reason)
        work, order = self._work, self._work.order
        if order is None:  # the next task starts a process
            await self._note_in_log(what)
        elif work.tries >= MOST_TRIES:
            last = f"{what}; this was try {work.tries} of {MOST_TRIES}"
            await self._answering.fail(order, pb.Failure(code="job-failed", message=last))
        else:
            work.tries += 1
            note = f"{what}; it is started again (try {work.tries} of {MOST_TRIES})"
            logger.warning("job %s: %s", self.job_id, note)
            await self._note_in_log(note)
            self.say_doing(note)
            await self._handover.hand_over(order)

    async def _note_in_log(self, text: str) -> None:
        """A line in the job's log, while no shim writes to it."""
        await asyncio.to_thread(note_in_log, self.folder, text)
        if self._log is not None:
            self._log.grew()

    # ---- the end -------------------------------------------------------------------------

    async def _begin_no_more(self) -> Process | None:
        """What is under way is given up, and nothing new begins; returns the process that there is."""
        self._work.over = True
        if self._fetching is not None:
            self._fetching.cancel()
        self._starting.give_up()
        async with self._up:
            return self._process

    async def stop(self, reason: str, grace: float) -> tuple[int, ...]:
        """Kill everything of this job here; returns the pids that are left (none: proof)."""
        self._work.be("stopping")
        left: tuple[int, ...] = ()
        process = await self._begin_no_more()
        if process is None:  # of a start that was given up something may be left all the same
            left = (await asyncio.to_thread(reap_leftovers, self.folder)).remaining
        else:
            await _try_send(process, pb.ToWorker(quit=pb.Quit(reason=reason)))
            left = await process.stop(grace)
            self.ended = (await process.wait()).ended
        await self._tasks.close()
        await asyncio.gather(self._telling.flush(), *([self._log.flush()] if self._log is not None else []))
        if not left:
            older, self._work.models = self._work.models, set()
            self.tools.collect(older)
            await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)
        return left

    async def leave(self) -> None:
        """The agent restarts: let go of the job's process, which goes on."""
        process = await self._begin_no_more()
        await self._tasks.close()
        await self._telling.flush()
        if process is not None:
            await process.leave()
        await self._redactor.close()

    async def close(self) -> None:
        """The agent stops: end the job's process; the server will deploy it again."""
        process = await self._begin_no_more()
        if process is not None:
            await process.stop(self.admitted.submission.spec.resources.grace_seconds)
        await self._tasks.close()
        await self._telling.flush()
        await self._redactor.close()


def killed_in_words(reason: str) -> str:
    """The reason of an exit record whose process was ended from outside, as a sentence's beginning."""
    return reason if reason.startswith("the ") else f"the job's process was {reason}"


def note_in_log(folder: Path, text: str) -> None:
    """A line of ours in the log of the job in `folder`, while no shim writes to it."""
    try:
        log = LogSegments(folder / "log", limit=LaunchOrder.log_limit)
    except OSError:  # no such folder, or a full disk
        return
    log.append(f"[flprov: {text}]\n".encode())
    log.close()


def _verify_needs(needs: tuple[str, ...], python: Path) -> None:
    problems = check_needs(needs, python)
    if problems:
        raise NotFound("; ".join(problems), hint="the site's IT installs packages; a job never does")


async def _try_send(process: Process, message: pb.ToWorker) -> None:
    try:
        async with asyncio.timeout(_LAST_WORD):  # it may not read any more
            await process.channel.send(message)
    except (FlprovError, TimeoutError) as error:
        logger.debug("a job's process is gone already: %s", error)


def refusal_of(error: FlprovError) -> pb.Failure:
    """What the server is told; the hint is for the person who asked."""
    failure = failure_of(error)
    if isinstance(error, PolicyRefused):
        failure.hint = ""  # how to open this site is the site's own matter
    return failure
