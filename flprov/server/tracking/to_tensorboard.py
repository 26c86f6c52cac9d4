# SPDX-License-Identifier: Apache-2.0
"""TensorBoard: FOLDER/<job>/<site or global>/ with one event file each, tags `round/...` and `live/...`.

The size that each file had when its lines were marked is remembered. What a kill left beyond it is cut off
before more is written, so that no point is there twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from flprov.wire import SeriesJob, SeriesLine, SeriesPoint

_FILE = "events.out.tfevents.0000000000.flprov"  # the part up to `tfevents` is what TensorBoard looks for
_VERSION = "brain.Event:2"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")
GLOBAL = "global"


class TensorBoard:
    """A `Target`."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def deliver(
        self,
        job: SeriesJob,
        lines: Sequence[SeriesLine],
        memory: Mapping[str, str],
        remember: Callable[[Mapping[str, str]], None],  # noqa: ARG002 - the sizes are enough
    ) -> Mapping[str, str]:
        """See `Target.deliver`; remembers run -> size."""
        told: dict[str, list[SeriesPoint]] = {}
        for line in lines:
            if isinstance(line, SeriesPoint):
                told.setdefault(_run(line.site), []).append(line)
        sizes = {}
        for run, points in told.items():
            folder = self._folder / f"{_safe(job.name)}-{job.job_id}" / run
            first = points[0].at if run in memory else min(point.at for point in points)
            sizes[run] = str(_append(folder / _FILE, int(memory.get(run, "0")), points, first))
        return {**memory, **sizes}


def _append(path: Path, size: int, points: Sequence[SeriesPoint], first: float) -> int:
    """The points after the first `size` bytes of the file; its size then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(min(size, file.tell()))
        file.seek(0, 2)
        writer = RecordWriter(file)
        if not file.tell():
            writer.write(Event(wall_time=first, file_version=_VERSION).SerializeToString())
        for point in points:
            writer.write(_event(point).SerializeToString())
        writer.flush()
        return file.tell()


def _event(point: SeriesPoint) -> Event:
    value = Summary.Value(tag=f"{point.origin}/{point.name}", simple_value=point.value)
    return Event(wall_time=point.at, step=point.step, summary=Summary(value=[value]))


def _run(site: str) -> str:
    return _safe(site) if site else GLOBAL


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name).lstrip(".") or "_"
