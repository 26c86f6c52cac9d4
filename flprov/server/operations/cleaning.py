# SPDX-License-Identifier: Apache-2.0
"""`flprov server gc`, and the same once a day when server.yml says how long jobs are kept.

What goes: jobs that ended long enough ago, with all that is theirs; checkpoints of ended jobs beyond those
that are kept; blobs that no record names; uploads that nobody has gone on with. What a job that has not
ended needs is named by a record, and stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from flprov._base import Alarm, canonical_json, from_iso, to_iso
from flprov.blobs import BlobStore, disk_errors
from flprov.errors import Conflict, FlprovError, Misuse, NotFound
from flprov.rpc import Call
from flprov.server.durable import commit_through
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.run import JobRun
from flprov.server.operations.parts import Parts
from flprov.server.records import RoundRecord
from flprov.store import Change, Put, Row
from flprov.wire import pb
from flprov.wire.documents import CleanDocument, CleanedJob

logger = logging.getLogger(__name__)

_YOUNG = timedelta(hours=1)  # a blob may be here before the record that names it
_GIVEN_UP = timedelta(days=7)  # since an upload grew
_LEAST_AGE = 3600.0  # seconds
_LONGEST_AGE = 100 * 366 * 86400.0
_DAY = timedelta(days=1)
_LAST = ("server", "cleaned")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What may go now."""

    jobs: Sequence[JobRun]
    rounds: Sequence[RoundRecord]  # whose saved state goes
    blobs: frozenset[str]
    uploads: Sequence[int]  # bytes of each


class Cleaner:
    """Throws away what nobody needs."""

    def __init__(
        self, parts: Parts, blobs: BlobStore, *, checkpoints: Retention, keep_jobs: timedelta | None
    ) -> None:
        self._parts = parts
        self._blobs = blobs
        self._checkpoints = checkpoints
        self._keep_jobs = keep_jobs
        self._alarm = Alarm(parts.clock)
        self._cleaning = asyncio.Lock()

    async def clean(self, call: Call, request: pb.CleanRequest) -> pb.Document:
        """What a project_admin asks for."""
        age = self._age(request.older_than_seconds)
        about = f"{request.older_than_seconds} {request.dry_run}"
        command = self._parts.commands.verify_fresh(call, request, about)
        if command is None:
            note = "this command was carried out before: nothing was done"
            return pb.Document(
                json=canonical_json(_document(_NOTHING, 0, dry_run=request.dry_run, notes=(note,)))
            )
        if request.dry_run:
            found = await self._find(age)
            return pb.Document(json=canonical_json(self._describe(found, dry_run=True)))
        changes = self._parts.commands.changes(command)
        done = await self._clean(age, call.caller.uri, changes)
        self._parts.commands.add(command)
        return pb.Document(json=canonical_json(done))

    def _age(self, seconds: float) -> timedelta | None:
        if seconds == 0:
            return self._keep_jobs
        if not (math.isfinite(seconds) and _LEAST_AGE <= seconds <= _LONGEST_AGE):
            raise Misuse(
                f"jobs older than {seconds:g} s cannot be asked for: from an hour to a hundred years",
                hint="flprov server gc --older-than 90d",
            )
        return timedelta(seconds=seconds)

    # ---- by itself -----------------------------------------------------------------------

    async def run(self) -> None:
        """Once a day, until cancelled, if server.yml says how long jobs are kept."""
        if self._keep_jobs is None:
            return
        while True:
            try:
                last = self._parts.store.get(*_LAST)
                due = from_iso(str(last["at"])) + _DAY if last else self._parts.clock.now()
                await self._alarm.wait_until(due)
                now = to_iso(self._parts.clock.now())
                await self._clean(self._keep_jobs, "server", [Put(*_LAST, {"at": now})])
            except FlprovError as error:
                logger.warning("nothing could be cleaned up, and it is tried again in an hour: %s", error)
                await self._alarm.wait_until(self._parts.clock.now() + timedelta(hours=1))

    # ---- what goes -----------------------------------------------------------------------

    async def _find(self, age: timedelta | None) -> _Found:
        jobs, now = self._parts.jobs, self._parts.clock.now()
        ended = [run for run in jobs.all() if run.record.state.terminal]
        old = [run for run in ended if age is not None and _ended_before(run, now - age)]
        gone = {run.record.id for run in old}
        rounds = [
            found
            for run in ended
            if run.record.id not in gone
            for found in self._checkpoints.outdated(jobs.rounds(run.record.id))
        ]
        with disk_errors("the folder of blobs cannot be read"):
            present = await asyncio.to_thread(self._blobs.digests, before=now - _YOUNG)
            uploads = await asyncio.to_thread(self._blobs.stale_uploads, now - _GIVEN_UP)
        return _Found(
            jobs=old, rounds=rounds, blobs=frozenset(jobs.unneeded(present)), uploads=tuple(uploads)
        )

    async def _clean(self, age: timedelta | None, who: str, changes: Sequence[Change]) -> CleanDocument:
        async with self._cleaning:
            found = await self._find(age)
            size = self._size(found)
            done, notes = [], []
            for run in found.jobs:
                try:
                    await self._parts.jobs.delete(run, who, f"it ended more than {_say(age)} ago")
                except (Conflict, NotFound) as error:
                    notes.append(str(error))
                else:
                    done.append(run)
            for job_id, rounds in _by_job(found.rounds).items():
                row = Row(who=who, what="job.trim", object=job_id, data={"checkpoints": len(rounds)})
                if (left := self._parts.jobs.get(job_id)) is not None:
                    with contextlib.suppress(NotFound):
                        await self._parts.jobs.trim(left, rounds, row)
            notes.extend(self._parts.jobs.collect(found.blobs))
            document = _document(_Found(**vars(found) | {"jobs": done}), size, notes=tuple(notes))
            await commit_through(self._parts.store, changes, self._row(who, document))
            return document

    def _row(self, who: str, done: CleanDocument) -> Row | None:
        data = {
            "jobs": len(done.jobs),
            "checkpoints": done.checkpoints,
            "blobs": done.blobs,
            "uploads": done.uploads,
            "bytes": done.bytes,
        }
        if not any(data.values()) and who == "server":
            return None
        return Row(who=who, what="server.gc", object=self._parts.server, data=data)

    def _describe(self, found: _Found, *, dry_run: bool) -> CleanDocument:
        notes = (
            ["blobs that only the jobs above need go with them, and are not counted"] if found.jobs else []
        )
        return _document(found, self._size(found), dry_run=dry_run, notes=tuple(notes))

    def _size(self, found: _Found) -> int:
        total = sum(found.uploads)
        for digest in found.blobs:
            with contextlib.suppress(NotFound):
                total += self._blobs.size(digest)
        return total


_NOTHING = _Found(jobs=(), rounds=(), blobs=frozenset(), uploads=())


def _document(
    found: _Found, size: int, *, dry_run: bool = False, notes: tuple[str, ...] = ()
) -> CleanDocument:
    return CleanDocument(
        dry_run=dry_run,
        jobs=tuple(_job(run) for run in found.jobs),
        checkpoints=len(found.rounds),
        blobs=len(found.blobs),
        uploads=len(found.uploads),
        bytes=size,
        notes=notes,
    )


def _job(run: JobRun) -> CleanedJob:
    job = run.record
    return CleanedJob(id=job.id, name=job.name, state=job.state.value, finished_at=job.finished_at)


def _ended_before(run: JobRun, moment: datetime) -> bool:
    ended = run.record.finished_at
    return ended is not None and ended < moment


def _by_job(rounds: Sequence[RoundRecord]) -> dict[str, list[RoundRecord]]:
    found: dict[str, list[RoundRecord]] = {}
    for record in rounds:
        found.setdefault(record.job_id, []).append(record)
    return found


def _say(age: timedelta | None) -> str:
    days = (age or timedelta()) / timedelta(days=1)
    return f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
