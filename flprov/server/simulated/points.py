# SPDX-License-Identifier: Apache-2.0
"""The numbers that a simulated job tells while its rounds go on, to its series."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from flprov._base import Clock, Tasks
from flprov.server.jobs.gather import Gather
from flprov.server.series import SeriesBook
from flprov.wire import pb

_MOST_AT_ONCE = 2_000  # points that wait for the disk; more are dropped, as a full line would at a real site


class Points:
    """Numbers each site's points."""

    def __init__(self, job_id: str, series: SeriesBook, clock: Clock) -> None:
        self._job_id = job_id
        self._series = series
        self._clock = clock
        self._counts: dict[str, Counter[str]] = {}
        self._sent: Counter[str] = Counter()
        self._waiting = 0
        self._tasks = Tasks("points")

    def tell(self, site: str, said: pb.Progress, gather: Gather | None) -> None:
        """What a site has told in the task of `gather`."""
        if not said.values or self._waiting >= _MOST_AT_ONCE:
            return
        now = self._clock.now().timestamp()
        points = list(self._points(said, self._counts.setdefault(site, Counter()), now))
        for point in points:
            if gather is not None:
                point.round, point.task = gather.asked.round, gather.asked.name
        first = self._sent[site]
        self._sent[site] += len(points)
        self._waiting += len(points)
        self._tasks.spawn(self._take(site, first, points, now))

    def _points(self, said: pb.Progress, counts: Counter[str], now: float) -> Iterator[pb.Point]:
        for name, value in said.values.items():
            if math.isfinite(value):
                counts[name] += 1
                yield pb.Point(
                    name=name, value=value, at=now, step=counts[name] if said.counted else said.step
                )

    async def _take(self, site: str, first: int, points: list[pb.Point], now: float) -> None:
        await self._series.take(self._job_id, site, site, first, points, now)
        self._waiting -= len(points)

    def tell_workflow(self, said: pb.Progress, number: int) -> None:
        """What the workflow has told in this round; where it names no step, the round is one."""
        now, step = self._clock.now().timestamp(), number + 1 if said.counted else said.step
        points = [
            pb.Point(name=name, value=value, step=step, round=number, at=now)
            for name, value in said.values.items()
        ]
        if points:
            self._series.tell(self._job_id, points, now)
