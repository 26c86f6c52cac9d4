# SPDX-License-Identifier: Apache-2.0
"""What the server is told of a job while it runs here: how far it is, in numbers, bytes and words."""

from __future__ import annotations

from flprov.agent.bulk import OnBytes
from flprov.agent.points import PointSender
from flprov.agent.surroundings import SiteWork
from flprov.wire import pb

_MOST_PROGRESS = 16 << 10  # bytes
_BYTES_EVERY = 2.0  # seconds; of a transfer
_PROGRESS_EVERY = 0.2  # seconds; what a job says more often is passed over


class Telling:
    """Telemetry: tells the server, if it is there to be told; nothing is kept."""

    def __init__(self, work: SiteWork) -> None:
        self._work = work
        self._report = work.tools.report
        self._clock = work.tools.clock
        self._points = PointSender(work.tools.bulk, work.job_id, work.tools.clock)
        self._told = -_PROGRESS_EVERY  # when progress was last passed on

    def say_doing(self, text: str) -> None:
        """What is done for the job here, in words of ours."""
        self._report(pb.FromSite(progress=self._progress(doing=text)))

    def pass_on(self, said: pb.Progress) -> None:
        """What the job's process said. Only numbers and their names: its words would leave past what the
        policy says of logs.
        """
        if said.ByteSize() > _MOST_PROGRESS:
            return
        self._points.take(said, self._work.order)
        now = self._clock.monotonic()
        if now - self._told >= _PROGRESS_EVERY:
            self._told = now
            self._report(pb.FromSite(progress=self._progress(step=said.step, values=said.values)))

    def of_bytes(self, doing: str, task_id: str = "") -> OnBytes:
        """Passes on how far a transfer is, every few seconds and at its end: slow links carry this too."""
        begun = told = self._clock.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            now = self._clock.monotonic()
            if now - told >= _BYTES_EVERY or (told > begun and done >= total):
                told = now
                said = self._progress(task_id, doing=doing, bytes_done=done, bytes_total=total)
                self._report(pb.FromSite(progress=said))

        return tell

    async def flush(self) -> None:
        """Send the numbers that wait."""
        await self._points.flush()

    def _progress(self, task_id: str = "", **said: object) -> pb.Progress:
        task = task_id or ("" if self._work.order is None else self._work.order.task_id)
        return pb.Progress(job_id=self._work.job_id, task_id=task, **said)  # type: ignore[arg-type]
