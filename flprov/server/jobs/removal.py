# SPDX-License-Identifier: Apache-2.0
"""`job delete`: everything of a job that has ended goes in one transaction; files follow, and a restart
removes those that a kill has kept. The token stays used, and a row of the log says who did it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from flprov.errors import Conflict
from flprov.server.records import JobRecord, RoundRecord, UpdateRecord
from flprov.store import Change, Delete
from flprov.workers import reap_leftovers


def verify_removable(job: JobRecord, enrolled: Collection[str]) -> None:
    """Nothing, if the job may go.

    Raises:
        Conflict: it has not ended, or a site of the project has not confirmed that nothing of it runs.
    """
    if not job.state.terminal:
        raise Conflict(f"job {job.id} is {job.state.value}", hint=f"flprov job abort {job.id}")
    waiting = [site for site in job.unconfirmed if site in enrolled]  # who has left cannot confirm any more
    if waiting:
        names = ", ".join(waiting)
        raise Conflict(
            f"job {job.id} has ended, but {names} could not confirm yet that nothing of it runs there",
            hint=f"it confirms when it connects: flprov site show {waiting[0]}",
        )


def changes_for_removal(
    job: JobRecord, rounds: Iterable[RoundRecord], updates: Iterable[UpdateRecord]
) -> list[Change]:
    """What the transaction does."""
    return [
        Delete("job", job.id),
        *(Delete("round", round_.key) for round_ in rounds),
        *(Delete("update", update.key) for update in updates),
    ]


def blobs_of(job: JobRecord, rounds: Iterable[RoundRecord]) -> set[str]:
    """Everything of the job in the blob store, save its app."""
    states = [job.model, *(round_.state for round_ in rounds)]
    results = {ref.digest for ref in job.results.values()} - {""}
    return results.union(*(state.digests for state in states if state is not None))


def remove_folder(folder: Path) -> None:
    """Logs, and what the workflow's process worked with; what a kill left of that is ended first."""
    reap_leftovers(folder / "workflow")
    shutil.rmtree(folder, ignore_errors=True)
