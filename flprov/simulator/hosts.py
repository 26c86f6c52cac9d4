# SPDX-License-Identifier: Apache-2.0
"""Hosts: the processes that simulated sites live in. A site stays with its host.

A host does one task at a time. One that is ended by what a site's code does fails that site's task; its other
sites go on in a new process, which knows nothing of what they had kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from flprov.errors import FlprovError, JobFailed
from flprov.wire import failure_of, pb
from flprov.workers import ExitRecord, Launcher, LaunchOrder, Process, Starting

logger = logging.getLogger(__name__)

MOST_TRIES = 3  # of a task whose process is killed from outside, as at a real site
_AHEAD = 2  # tasks that a process has been given: it need not wait for the next one
_LAST_WORD = 0.5  # seconds in which a process takes the word that it is to end
_FAREWELL = 30.0  # seconds in which a process ends that has closed its channel


@dataclass
class _Given:
    """A task on its way through a host."""

    site: str
    order: pb.TaskOrder
    tries: int = 1


Answered = Callable[[str, pb.TaskAnswer], Awaitable[None]]
Told = Callable[[str, pb.Progress], None]


class Host:
    """One process at a time, and the sites that live in it.

    Args:
        launcher: starts it.
        order: what to start.
        start: what each of its sites is told first.
        answered: told of each answer, in time order; the next one waits until it is dealt with.
        told: told of progress.
        lend: called with the folder for updates before a task goes to the process: what lies there as a spare
            file (`flprov._base.spare`) is written over.
        alone: the process is its one site's own, and runs scripts, too.
    """

    def __init__(
        self,
        launcher: Launcher,
        order: LaunchOrder,
        start: Callable[[str], pb.StartSite],
        *,
        answered: Answered,
        told: Told,
        lend: Callable[[Path], None],
        alone: str = "",
    ) -> None:
        self.order = order
        self._starting = Starting(launcher)
        self._start = start
        self._answered = answered
        self._told = told
        self._lend = lend
        self._alone = alone
        self._waiting: deque[_Given] = deque()
        self._given: deque[_Given] = deque()  # by the process, which begins with the first
        self._known: set[str] = set()  # sites that the process has heard of
        self._process: Process | None = None
        self._moved = asyncio.Event()  # there is more to give, or room for it
        self._launching = asyncio.Lock()
        self._stopping = False

    @property
    def folder(self) -> Path:
        """Where it reads blobs from (in/), and writes updates (out/) and logs to."""
        return self.order.folder

    @property
    def checks(self) -> bool:
        """Whether our code there has checked the updates that come from it."""
        return not self._alone

    def give(self, site: str, order: pb.TaskOrder) -> None:
        """Have a site do a task, after those that its host was given before."""
        self._waiting.append(_Given(site, order))
        self._moved.set()

    def forget(self, task_id: str) -> None:
        """Nobody waits for this task any more: whoever has not begun it need not."""
        self._waiting = deque(given for given in self._waiting if given.order.task_id != task_id)

    async def run(self) -> None:
        """Serve until `stop`, with one process after the other."""
        while not self._stopping:
            try:
                await self.launch()
                if self._process is not None:
                    await self._serve(self._process)
            except FlprovError as error:  # it cannot be started
                if not self._stopping:
                    await self._fail_all(failure_of(error))
            while not (self._waiting or self._stopping):
                self._moved.clear()
                await self._moved.wait()

    async def launch(self) -> None:
        """Start the process now, if there is none. Raises what stands against it."""
        async with self._launching:
            if self._process is None and not self._stopping:
                self._known.clear()
                self._process = await self._starting.launch(self.order)

    async def stop(self, grace: float, reason: str) -> None:
        """End the process and all that it has started."""
        self._stopping = True
        self._moved.set()
        self._starting.give_up()
        async with self._launching:
            process = self._process
        if process is not None:
            with contextlib.suppress(FlprovError, TimeoutError):  # it may not read any more
                async with asyncio.timeout(_LAST_WORD):
                    await process.channel.send(pb.ToWorker(quit=pb.Quit(reason=reason)))
            await process.stop(grace)

    # ---- one process ---------------------------------------------------------------------

    async def _serve(self, process: Process) -> None:
        feeding = asyncio.create_task(self._feed(process), name="feed a host")
        reason = ""
        try:
            while (frame := await process.channel.receive()) is not None:
                await self._said(frame)
        except FlprovError as error:
            reason = str(error)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        record = await self._see_off(process, _LAST_WORD if reason else _FAREWELL)
        self._process = None
        if not self._stopping:
            await self._ended(record, reason)

    async def _feed(self, process: Process) -> None:
        with contextlib.suppress(FlprovError):  # it has ended: who listens to it learns how
            while True:
                while not self._waiting or len(self._given) >= (1 if self._alone else _AHEAD):
                    self._moved.clear()
                    await self._moved.wait()
                given = self._waiting.popleft()
                self._given.append(given)
                if given.site not in self._known:
                    self._known.add(given.site)
                    start = self._start(given.site)
                    await process.channel.send(pb.ToWorker(site=given.site, start_site=start))
                self._lend(self.folder / "out")
                await process.channel.send(pb.ToWorker(site=given.site, task=given.order))

    async def _said(self, frame: pb.FromWorker) -> None:
        site = self._alone or frame.site
        match frame.WhichOneof("body"):
            case "answer":
                await self._settle(site, frame.answer)
            case "failure":
                await self._settle(site, pb.TaskAnswer(failure=frame.failure))
            case "progress":
                self._told(site, frame.progress)

    async def _settle(self, site: str, answer: pb.TaskAnswer) -> None:
        given = next((given for given in self._given if given.site == site), None)
        if given is None:
            return
        self._given.remove(given)
        self._moved.set()
        answer.task_id = given.order.task_id
        await self._answered(site, answer)

    async def _see_off(self, process: Process, seconds: float) -> ExitRecord:
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        except TimeoutError:
            await process.stop(self.order.grace)
            return await process.wait()

    async def _ended(self, record: ExitRecord, reason: str) -> None:
        """The process has ended unasked. The task that it was at has failed; the others have not begun."""
        if not self._given:
            return
        first, *others = self._given
        self._given.clear()
        self._waiting.extendleft(reversed(others))
        if record.outside and first.tries < MOST_TRIES:
            first.tries += 1
            logger.warning("%s was %s; it is tried again (try %d)", first.site, record.reason, first.tries)
            self._waiting.appendleft(first)
            return
        why = JobFailed(reason or f"the job's process ended: {record.reason}")
        answer = pb.TaskAnswer(task_id=first.order.task_id, failure=failure_of(why))
        await self._answered(first.site, answer)

    async def _fail_all(self, failure: pb.Failure) -> None:
        waiting = [*self._given, *self._waiting]
        self._given.clear()
        self._waiting.clear()
        for given in waiting:
            await self._answered(given.site, pb.TaskAnswer(task_id=given.order.task_id, failure=failure))
