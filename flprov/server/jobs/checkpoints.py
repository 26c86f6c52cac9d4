# SPDX-License-Identifier: Apache-2.0
"""The saved states of a job's rounds: which are kept, and which one a clone may start with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flprov.errors import Conflict, NotFound
from flprov.server.records import JobRecord, RoundRecord, StateRef


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many saved states are kept of a job: the newest."""

    most: int = 10  # 0: all
    room: int = 2 << 30  # bytes; what takes more is kept `least` times; 0: whatever it takes
    least: int = 3

    def count(self, rounds: int, size: int) -> int:
        """How many are kept after so many rounds, of `size` bytes each."""
        fit = max(self.least, self.room // size) if self.room and size else rounds
        return min(rounds, self.most or rounds, fit)

    def outdated(self, rounds: Sequence[RoundRecord]) -> list[RoundRecord]:
        """The rounds whose saved state goes, of those that have one; the oldest are first."""
        kept = [round_ for round_ in rounds if round_.state is not None]
        stay, taken, seen = 0, 0, set[str]()
        for round_ in reversed(kept):
            assert round_.state is not None
            new = {ref.digest: ref.size for ref in round_.state.refs if ref.digest not in seen}
            taken += sum(new.values())
            seen.update(new)
            full = self.room and taken > self.room and stay >= self.least
            if full or (self.most and stay == self.most):
                break
            stay += 1
        return kept[: len(kept) - stay]


def find_checkpoint(job: JobRecord, rounds: Sequence[RoundRecord], done: int) -> StateRef:
    """The state of a job after `done` rounds.

    Raises:
        NotFound: the job has not done so many.
        Conflict: it has, and the state is not kept any more; the message says which ones are.
    """
    hint = f"flprov job show {job.id}"
    if done > job.round:
        raise NotFound(f"job {job.id} has done {job.round} rounds, not {done}", hint=hint)
    if done <= job.base:
        source = job.origin.job_id if job.origin else ""
        raise NotFound(
            f"job {job.id} is a clone of job {source} and began with {job.base} rounds done:"
            f" it has no state of its own after {done}",
            hint=f"flprov job clone {source} --from-round {done}",
        )
    found = {round_.round + 1: round_.state for round_ in rounds}
    state = found.get(done)
    if state is None:
        kept = [number for number, state in sorted(found.items()) if state is not None]
        there = f"there are those after {in_ranges(kept)}" if kept else "there is none of this job"
        raise Conflict(
            f"the checkpoint of job {job.id} after {done} rounds is not kept any more; {there}", hint=hint
        )
    return state


def in_ranges(numbers: Sequence[int]) -> str:
    """`1-3, 7` for 1, 2, 3 and 7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
