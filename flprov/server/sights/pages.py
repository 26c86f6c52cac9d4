# SPDX-License-Identifier: Apache-2.0
"""Long lists in pages: none is larger than a message should be, however many jobs and sites there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from flprov._base import canonical_json
from flprov.errors import Misuse
from flprov.server.jobs.run import JobRun
from flprov.server.records import RoundRecord
from flprov.server.sights.jobs import job_document, round_document
from flprov.wire import pb
from flprov.wire.documents import JobDocument, JobListDocument

MOST = 500  # of a page
_MOST_BYTES = 1 << 20  # a little more, by the last one
_MOST_BYTES_SHOWN = 3 << 20  # of the rounds in the one message that shows a job


def list_page(runs: Sequence[JobRun], request: pb.Query) -> JobListDocument:
    """The newest jobs before `request.before`, as many as were asked for and fit.

    Args:
        runs: every job, oldest first.
        request: `id` (an app's name), `state`, `limit`, `before`; each may be empty.

    Raises:
        Misuse: the job of `before` is not there.
    """
    wanted = _matching(_older(runs, request.before), request)
    most = min(request.limit or MOST, MOST)
    found: list[JobDocument] = []
    size = 0
    for run in wanted:
        if len(found) == most or size > _MOST_BYTES:
            return JobListDocument(jobs=tuple(found), more=True)
        found.append(job_document(run))
        size += len(canonical_json(found[-1]))
    return JobListDocument(jobs=tuple(found))


def newest_rounds(rounds: Sequence[RoundRecord]) -> list[RoundRecord]:
    """Those of a job that fit into the message that shows it; the job says how many there were."""
    return _fitting(reversed(rounds), _MOST_BYTES_SHOWN)[::-1]


def next_rounds(rounds: Sequence[RoundRecord], start: int) -> list[RoundRecord]:
    """As many from a place on as one message of several takes; at least one, if there is any."""
    most = (rounds[place] for place in range(start, min(start + MOST, len(rounds))))
    return _fitting(most, _MOST_BYTES)


def _fitting(rounds: Iterable[RoundRecord], most: int) -> list[RoundRecord]:
    found: list[RoundRecord] = []
    size = 0
    for record in rounds:
        size += len(canonical_json(round_document(record)))
        if found and size > most:
            break
        found.append(record)
    return found


def _older(runs: Sequence[JobRun], before: str) -> Iterator[JobRun]:
    newest_first = reversed(runs)
    if before:
        for run in newest_first:
            if run.record.id == before:
                break
        else:
            raise Misuse(f"no job {before[:80]!r} to go on from: was it deleted?", hint="flprov job ls")
    return newest_first


def _matching(runs: Iterator[JobRun], request: pb.Query) -> Iterator[JobRun]:
    for run in runs:
        if request.id in ("", run.record.name) and request.state in ("", run.record.state.value):
            yield run
