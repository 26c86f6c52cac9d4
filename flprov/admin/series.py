# SPDX-License-Identifier: Apache-2.0
"""The numbers of a job as the server has them, read to the end or followed, and the curves that they make."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from flprov._base import backoff
from flprov.errors import FlprovError, Nature
from flprov.rpc import methods as m
from flprov.wire import ROUND, SeriesFull, SeriesLine, SeriesPoint, pb, read_series
from flprov.wire.documents import Curve, JobCurves, JobDocument

if TYPE_CHECKING:
    from flprov.admin.link import Link

OnRetry = Callable[[FlprovError, int, float], None]  # why, which try follows, in how many seconds


def fetch_series(
    link: Link, request: pb.SeriesRequest, *, rest: Callable[[float], None], on_retry: OnRetry | None
) -> Iterator[list[SeriesLine]]:
    """The lines of a job's series from `request.offset` on, in parts as they come.

    Raises:
        FlprovError: what time cannot heal, or a server that has not answered at all.
    """
    waits, tries, begun = backoff(first=0.5), 0, False
    while True:
        try:
            for part in link.download(m.WATCH_SERIES, request):
                begun, waits, tries = True, backoff(first=0.5), 0
                request.offset = part.offset + len(part.lines)
                yield list(read_series(part.lines))
        except FlprovError as error:
            if on_retry is None or error.nature is not Nature.TRANSIENT or not (begun and request.follow):
                raise
            tries += 1
            seconds = next(waits)
            on_retry(error, tries, seconds)
        else:
            return
        rest(seconds)


def make_curves(
    job: JobDocument,
    lines: Iterable[SeriesLine],
    *,
    names: Collection[str] = (),
    sites: Collection[str] = (),
) -> JobCurves:
    """The curves in `lines`: of these metrics, or all; of these sites and the job as a whole, or all."""
    found: dict[tuple[str, str, str], list[SeriesPoint]] = {}
    full = set()
    for line in lines:
        if isinstance(line, SeriesFull):
            full.add(line.site)
        elif isinstance(line, SeriesPoint) and is_wanted(line, names, sites):
            found.setdefault((line.name, line.origin, line.site), []).append(line)
    return JobCurves(
        job_id=job.id,
        name=job.name,
        state=job.state,
        curves=tuple(_curve(*key, found[key]) for key in sorted(found)),
        full=tuple(sorted(full)),
    )


def is_wanted(point: SeriesPoint, names: Collection[str], sites: Collection[str]) -> bool:
    """Whether it is of these metrics (none named: all) and of these sites or the job as a whole."""
    return (not names or point.name in names) and (not sites or not point.site or point.site in sites)


def _curve(name: str, origin: str, site: str, points: list[SeriesPoint]) -> Curve:
    steps, axis = [point.step for point in points], "round" if origin == ROUND else "step"
    if any(later <= earlier for earlier, later in pairwise(steps)):
        steps, axis = list(range(1, len(points) + 1)), "point"
    values = tuple(point.value for point in points)
    return Curve(name=name, origin=origin, site=site, axis=axis, steps=tuple(steps), values=values)
