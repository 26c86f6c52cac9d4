# SPDX-License-Identifier: Apache-2.0
"""What `job download` brings: the workflow's results, metrics, the run's record, and the logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flprov.blobs import BlobStore, digest_of
from flprov.errors import NotFound
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.run import JobRun
from flprov.server.jobs.runfiles import metrics_json, record_json
from flprov.server.logs import LogBook
from flprov.server.series import FILE
from flprov.server.sights.jobs import result_files
from flprov.wire.documents import ResultFile, ResultsDocument
from flprov.workers import log_size, log_start, read_log

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Results:
    """The results of any job, by file name."""

    jobs: Jobs
    blobs: BlobStore
    logs: LogBook

    def list(self, run: JobRun) -> ResultsDocument:
        """The files that there are now; those of a running job may still grow."""
        files = [*result_files(run)]
        files += [_made_file(run, name, make()) for name, make in self._made(run).items()]
        series = self.jobs.series.path(run.record.id)
        files += [ResultFile(name=FILE, size=series.stat().st_size)] if series.is_file() else []
        files += [
            ResultFile(name=name, size=log_size(path) - log_start(path))
            for name, path in self._logs(run).items()
        ]
        return ResultsDocument(job_id=run.record.id, files=tuple(files))

    async def read(self, run: JobRun, name: str, offset: int) -> AsyncIterator[bytes]:
        """One file's bytes from `offset` on.

        Raises:
            NotFound: the job has no such file.
        """
        ref = run.record.results.get(name)
        if ref is not None and ref.digest:
            for chunk in self.blobs.read(ref.digest, offset, _CHUNK):
                yield chunk
        elif ref is not None:
            yield bytes.fromhex(ref.inline)[offset:]
        elif name in (made := self._made(run)):
            yield made[name]()[offset:]
        elif name == FILE:
            async for at, lines in self.jobs.series.follow(run.record.id, offset, live=False):
                yield lines if at >= offset else b""
        elif name in (logs := self._logs(run)):
            for chunk in _read_segments(logs[name], offset):
                yield chunk
        else:
            raise NotFound(
                f"job {run.record.id} has no file {name[:80]!r}", hint=f"flprov job show {run.record.id}"
            )

    def _made(self, run: JobRun) -> dict[str, Callable[[], bytes]]:
        rounds = self.jobs.rounds(run.record.id)
        return {
            "metrics.json": lambda: metrics_json(run, rounds),
            "record.json": lambda: record_json(run, rounds),
        }

    def _logs(self, run: JobRun) -> dict[str, Path]:
        parties = [*run.record.targets, "server"]
        paths = {f"logs/{party}.log": self.logs.path(run.record.id, party) for party in parties}
        return {name: path for name, path in paths.items() if path.is_file() or log_size(path)}


def _made_file(run: JobRun, name: str, data: bytes) -> ResultFile:
    """With its digest once it cannot change any more: another job's file is then not overwritten by it."""
    settled = run.record.state.terminal and not run.record.unconfirmed
    return ResultFile(name=name, size=len(data), digest=digest_of(data) if settled else "")


def _read_segments(path: Path, offset: int) -> Iterator[bytes]:
    """What is there of a log from `offset` bytes behind its beginning on; what is missing is said."""
    at = min(log_start(path) + offset, log_size(path))
    if at and not offset:
        yield f"[flprov: {at} bytes were dropped]\n".encode()
    while True:
        found, data = read_log(path, at, _CHUNK)
        if not data:
            return
        yield data
        at = found + len(data)
