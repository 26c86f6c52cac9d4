# SPDX-License-Identifier: Apache-2.0
"""The numbers that a job tells, on their way to the server: over bulk, so that they delay nothing urgent.

Once a second what has come meanwhile is sent. Where the line or the server is away, or the job tells more
than leaves, every second point of each metric is let go: the curve stays, with fewer points.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections import Counter

from flprov._base import Clock, backoff
from flprov.agent.bulk import Bulk
from flprov.errors import FlprovError, Nature
from flprov.wire import pb

logger = logging.getLogger(__name__)

MOST_WAITING = 4_000  # points of one job; beyond it they are thinned out
MOST_AT_ONCE = 500  # in one message: some 30 KB
_EVERY = 1.0  # seconds
_MOST_NAMES = 500  # of one job
_LONGEST_NAME = 200  # characters; the server shows half of it
_LAST_WORDS = 2.0  # seconds for what is left when the job is over


class PointSender:
    """Sends one job's points. `take` costs next to nothing, however often it is called."""

    def __init__(self, bulk: Bulk, job_id: str, clock: Clock) -> None:
        self._bulk = bulk
        self._job_id = job_id
        self._clock = clock
        self._source = secrets.token_hex(8)
        self._sent = 0  # points that the server has
        self._batch: list[pb.Point] = []  # on its way, under numbers that it keeps
        self._waiting: list[pb.Point] = []
        self._counts: Counter[str] = Counter()
        self._sending = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._refused = False

    def take(self, said: pb.Progress, task: pb.TaskOrder | None) -> None:
        """Numbers that the job's process has told in this task."""
        if self._refused:
            return
        now = self._clock.now().timestamp()
        for name, value in said.values.items():
            known = name in self._counts
            if not math.isfinite(value) or not (known or self._may_count(name)):
                continue
            self._counts[name] += 1
            point = pb.Point(name=name, value=value, at=now)
            point.step = self._counts[name] if said.counted else said.step
            if task is not None:
                point.round, point.task = task.round, task.name
            self._waiting.append(point)
        if len(self._waiting) > MOST_WAITING:
            self._waiting = _thin_out(self._waiting)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._send_all(), name=f"points {self._job_id}")

    def _may_count(self, name: str) -> bool:
        return bool(name) and len(name) <= _LONGEST_NAME and len(self._counts) < _MOST_NAMES

    async def _send_all(self) -> None:
        waits = backoff()
        while self._batch or self._waiting:
            await self._clock.sleep(_EVERY)
            try:
                await self._send_some()
                waits = backoff()
            except FlprovError as error:
                if error.nature is not Nature.TRANSIENT:
                    self._give_up(error)
                    return
                logger.debug("job %s: its numbers wait: %s", self._job_id, error)
                await self._clock.sleep(next(waits))

    async def _send_some(self) -> None:
        async with self._sending:
            if not self._batch:
                self._batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            if self._batch:
                await self._bulk.send_points(self._job_id, self._source, self._sent, self._batch)
                self._sent += len(self._batch)
                self._batch = []

    def _give_up(self, error: FlprovError) -> None:
        """A server that does not take them: an older one, or the job has ended there."""
        logger.info("job %s: its numbers are not sent: %s", self._job_id, error)
        self._refused = True
        self._batch, self._waiting = [], []

    async def flush(self, seconds: float = _LAST_WORDS) -> None:
        """Send what there is; gives up, without an error, after `seconds`."""
        await self.close()
        try:
            async with asyncio.timeout(seconds):
                while self._batch or self._waiting:
                    await self._send_some()
        except (FlprovError, TimeoutError) as error:
            logger.info("job %s: its last numbers were not sent: %s", self._job_id, error)

    async def close(self) -> None:
        """Send no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


def _thin_out(points: list[pb.Point]) -> list[pb.Point]:
    """Every second point of each metric, the newest among them."""
    seen: Counter[str] = Counter()
    kept = []
    for point in reversed(points):
        if seen[point.name] % 2 == 0:
            kept.append(point)
        seen[point.name] += 1
    return kept[::-1]
