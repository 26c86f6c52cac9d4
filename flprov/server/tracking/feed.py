# SPDX-License-Identifier: Apache-2.0
"""From the series files of jobs to one target, each line once, also after either process was killed.

Of each job a mark says how far its file was delivered, and what the target needs to know to go on. A target
is told the same lines again when it was killed before the mark was saved, and takes care of that itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from flprov._base import canonical_json, from_document, parse_json, write_atomic
from flprov.wire import SeriesJob, SeriesLine, read_series

CHUNK = 64 << 10  # bytes; some 400 points


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How far one job is delivered."""

    offset: int = 0
    job: SeriesJob | None = None  # the first line, once it was read
    memory: Mapping[str, str] = field(default_factory=dict)  # the target's own


class Target(Protocol):
    """Where numbers go."""

    def deliver(
        self,
        job: SeriesJob,
        lines: Sequence[SeriesLine],
        memory: Mapping[str, str],
        remember: Callable[[Mapping[str, str]], None],
    ) -> Mapping[str, str]:
        """Write `lines`; returns what to remember with them.

        `remember` saves something before they are written: a target that is told of these lines again
        finds it in its `memory`.
        """
        ...


class Feed:
    """All jobs of a server, to one target.

    Args:
        jobs: the folder of all jobs.
        marks: where the marks are kept.
        name: of a job's series file.
        target: who takes the lines.
    """

    def __init__(self, *, jobs: Path, marks: Path, name: str, target: Target) -> None:
        self._jobs = jobs
        self._marks = marks
        self._name = name
        self._target = target

    def deliver_all(self) -> None:
        """Everything that is not delivered yet; marks of jobs that were deleted go."""
        self._marks.mkdir(parents=True, exist_ok=True)
        found = sorted(path.parent.name for path in self._jobs.glob(f"*/{self._name}"))
        for job_id in found:
            self.deliver(job_id)
        for path in self._marks.glob("*.json"):
            if path.stem not in found:
                path.unlink(missing_ok=True)

    def deliver(self, job_id: str) -> None:
        """What a job has told since the last time."""
        if "/" in job_id or job_id in ("", ".", ".."):
            return
        mark = self._load(job_id)
        while data := _read_lines(self._jobs / job_id / self._name, mark.offset):
            lines = list(read_series(data))
            job = mark.job or next((line for line in lines if isinstance(line, SeriesJob)), None)
            if job is not None:
                mark = replace(mark, job=job)

                def remember(memory: Mapping[str, str], at: Mark = mark) -> None:
                    self._save(job_id, replace(at, memory=memory))

                mark = replace(mark, memory=self._target.deliver(job, lines, mark.memory, remember))
            mark = replace(mark, offset=mark.offset + len(data))
            self._save(job_id, mark)

    def _load(self, job_id: str) -> Mark:
        try:
            return from_document(Mark, parse_json((self._marks / f"{job_id}.json").read_bytes()))
        except (OSError, ValueError):  # there is none yet
            return Mark()

    def _save(self, job_id: str, mark: Mark) -> None:
        write_atomic(self._marks / f"{job_id}.json", canonical_json(mark))


def _read_lines(path: Path, offset: int) -> bytes:
    """Whole lines from `offset` on; empty when there are none."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(CHUNK)
    except FileNotFoundError:  # the job was deleted
        return b""
    return data[: data.rfind(b"\n") + 1]
