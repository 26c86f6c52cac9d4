# SPDX-License-Identifier: Apache-2.0
"""The states of a job, and every step that it may take."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from flprov.errors import LocalError


class JobState(enum.Enum):
    """Where a job is. What it waits for (resources, quorum, approval) is a reason, not a state."""

    QUEUED = "queued"  # accepted and durable; no site knows of it
    DEPLOYING = "deploying"  # its sites are chosen and lease resources to it; they fetch and check the app
    RUNNING = "running"  # a quorum is ready; the workflow runs rounds
    FINISHING = "finishing"  # no further round; results are gathered, sites stop its processes
    COMPLETED = "completed"  # terminal: the workflow ended and every site did what was asked
    DEGRADED = "degraded"  # terminal: the workflow ended, but some site was absent, refused or unconfirmed
    FAILED = "failed"  # terminal: the workflow did not reach its end, for the reason given
    ABORTING = "aborting"  # somebody asked for its end; sites are told and prove that they stopped
    ABORTED = "aborted"  # terminal: it ended because somebody asked; may name sites that did not confirm

    @property
    def terminal(self) -> bool:
        """Whether this is the end: no step leads out of it."""
        return not TRANSITIONS[self]


# The theory. A job has one way forward,
#
#     queued -> deploying -> running -> finishing -> completed | degraded
#
# and two ways out of it, which differ in who decided.
#
# * `failed`: the job itself cannot go on (no quorum was left, the workflow's code raised, results
#   could not be gathered). It may happen at each step of the way; a job that was deployed passes
#   through `finishing`, because its sites have to stop its processes first. From the queue it is one
#   step, when what it was submitted with turns out to be gone.
# * `aborting -> aborted`: a person decided. It may happen at each step of the way too, and from
#   `aborting` there is one way only: a job that fails while it is being aborted was aborted. An
#   abort that no site can confirm still ends as `aborted`; the record names the sites.
#
# There is no step back. A site that is lost while deploying or running is a matter of quorum and
# `absence`, not of the job's state; after a restart of the server the job goes on in the state that
# was recorded, so no state means "being recovered". Terminal states are final: a site that confirms
# late changes the record's list of unconfirmed sites, never the state. There is no step from a state
# to itself: a new reason is a change of the reason.
TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.DEPLOYING, JobState.FAILED, JobState.ABORTING}),
    JobState.DEPLOYING: frozenset({JobState.RUNNING, JobState.FINISHING, JobState.ABORTING}),
    JobState.RUNNING: frozenset({JobState.FINISHING, JobState.ABORTING}),
    JobState.FINISHING: frozenset(
        {JobState.COMPLETED, JobState.DEGRADED, JobState.FAILED, JobState.ABORTING}
    ),
    JobState.COMPLETED: frozenset(),
    JobState.DEGRADED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.ABORTING: frozenset({JobState.ABORTED}),
    JobState.ABORTED: frozenset(),
}


def verify_step(old: JobState, new: JobState) -> JobState:
    """The state `new`, if the table lets a job go there from `old`.

    Raises:
        LocalError: it does not; the caller has a bug or lost a race, and nothing may be recorded.
    """
    if new in TRANSITIONS[old]:
        return new
    allowed = " or ".join(state.value for state in JobState if state in TRANSITIONS[old])
    rest = f"only to {allowed}" if allowed else "and no state follows it"
    raise LocalError(f"a job cannot go from {old.value} to {new.value}, {rest}")
