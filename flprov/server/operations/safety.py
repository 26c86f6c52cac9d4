# SPDX-License-Identifier: Apache-2.0
"""Whether a site or the server can be stopped now, and if not, when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flprov.jobs import JobState
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.run import JobRun

_RESTARTS = "a restart of the server loses nothing at any time: its jobs go on in the round they were in"


@dataclass(frozen=True, kw_only=True)
class Safety:
    """Whether nothing is lost if it stops, in words too, and the jobs that stand in the way."""

    safe: bool
    when: str
    jobs: tuple[str, ...] = ()


def site_safety(jobs: Jobs, name: str, *, drained: bool) -> Safety:
    """Of one site. What its jobs do when it goes all the same is up to their own rule on absence."""
    # Asked for each site: a job that waits in the queue holds nothing anywhere.
    there = [run for run in jobs.going() if run.sites.granted and run.sites.holds(name)]
    if there:
        ids = tuple(run.record.id for run in there)
        return Safety(safe=False, when=f"when {_names(there)} ended there", jobs=ids)
    if drained:
        return Safety(safe=True, when="now: no job runs there, and none will start there")
    return Safety(
        safe=True, when="now: no job runs there; one may start at any time unless the site is drained"
    )


def server_safety(jobs: Jobs, *, drained: bool) -> Safety:
    """Of the server: whether no job is under way anywhere."""
    active = [run for run in jobs.going() if _is_active(run)]
    if active:
        ids = tuple(run.record.id for run in active)
        return Safety(safe=False, when=f"when {_names(active)} ended; {_RESTARTS}", jobs=ids)
    more = "and none will start" if drained else "one may start at any time unless the server is drained"
    return Safety(safe=True, when=f"now: no job runs, {more}; {_RESTARTS}")


def _is_active(run: JobRun) -> bool:
    return not run.record.state.terminal and run.record.state is not JobState.QUEUED


def _names(runs: Sequence[JobRun]) -> str:
    """`job 3f2a (round 4 of 20) has`, `jobs 3f2a (round 4 of 20) and 77c0 (deploying) have`."""
    said = [f"{run.record.id} ({progress(run)})" for run in runs]
    if len(said) == 1:
        return f"job {said[0]} has"
    return f"jobs {', '.join(said[:-1])} and {said[-1]} have"


def progress(run: JobRun) -> str:
    """`round 4 of 20`, or the state of a job that is in no round."""
    job = run.record
    if job.state is not JobState.RUNNING:
        return str(job.state.value)
    total = run.rounds.total or (job.spec.workflow.rounds if job.spec.workflow.type else None)
    return f"round {job.round + 1}" + (f" of {total}" if total else "")
