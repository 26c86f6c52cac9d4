# SPDX-License-Identifier: Apache-2.0
"""The numbers of a job as the server has them, read to the end or followed, and the curves that they make."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from flprov.admin.following import OnRetry, follow_stream
from flprov.rpc import methods as m
from flprov.wire import ROUND, SeriesFull, SeriesLine, SeriesPoint, pb, read_series
from flprov.wire.documents import Curve, JobCurves, JobDocument

if TYPE_CHECKING:
    from flprov.admin.link import Link


def fetch_series(
    link: Link, request: pb.SeriesRequest, *, rest: Callable[[float], None], on_retry: OnRetry | None
) -> Iterator[list[SeriesLine]]:
    """The lines of a job's series from `request.offset` on, in parts as they come.

    Raises:
        FlprovError: what time cannot heal, or a server that has not answered at all.
    """

    def note(part: pb.SeriesPart) -> None:
        request.offset = part.offset + len(part.lines)

    for part in follow_stream(link, m.WATCH_SERIES, request, note=note, rest=rest, on_retry=on_retry):
        yield list(read_series(part.lines))


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
