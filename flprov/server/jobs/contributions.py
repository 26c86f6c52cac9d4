# SPDX-License-Identifier: Apache-2.0
"""Who gave what to a job, over all its rounds; and the sentence that makes `degraded` mean something."""

from __future__ import annotations

from collections.abc import Sequence

from flprov.server.jobs.checkpoints import in_ranges
from flprov.server.records import JobRecord, RoundRecord
from flprov.wire.documents import Contribution

_MOST_ROUNDS = 1000  # that are listed as missed
_MOST_REASONS = 5
_MOST_NAMED = 10  # sites in a sentence


def contributions(job: JobRecord, rounds: Sequence[RoundRecord]) -> tuple[Contribution, ...]:
    """One line for each site of the job."""
    done = dict.fromkeys(job.targets, 0)
    samples = dict.fromkeys(job.targets, 0)
    missed: dict[str, list[int]] = {site: [] for site in job.targets}
    reasons: dict[str, dict[str, None]] = {site: {} for site in job.targets}
    for round_ in rounds:
        for line in round_.contributors:
            if line.site in done:
                done[line.site] += 1
                samples[line.site] += line.samples
        for lack in (*round_.absent, *round_.refused):
            if lack.site in missed:
                missed[lack.site].append(round_.round)
                reasons[lack.site][lack.reason] = None
    return tuple(
        Contribution(
            site=site,
            rounds=done[site],
            samples=samples[site],
            missed=tuple(dict.fromkeys(missed[site]))[:_MOST_ROUNDS],
            reasons=tuple(reasons[site])[:_MOST_REASONS],
        )
        for site in job.targets
    )


class LastContributions:
    """To which round of a job each site gave something last. Looks at each round once, when somebody asks."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}  # site -> place of the round
        self._seen = 0  # rounds

    def find(self, rounds: Sequence[RoundRecord], site: str) -> RoundRecord | None:
        """The last of these rounds that has an update of the site; `rounds` has only grown since."""
        while self._seen < len(rounds):
            for line in rounds[self._seen].contributors:
                self._places[line.site] = self._seen
            self._seen += 1
        place = self._places.get(site)
        return None if place is None else rounds[place]


def lacking(job: JobRecord, rounds: Sequence[RoundRecord]) -> str:
    """Who missed what, as the reason of a job that ended degraded."""
    lines = [line for line in contributions(job, rounds) if line.missed]
    said = [
        f"{line.site} missed {_rounds(line.missed)} ({'; '.join(line.reasons[:2])})"
        for line in lines[:_MOST_NAMED]
    ]
    if len(lines) > _MOST_NAMED:
        said.append(f"{len(lines) - _MOST_NAMED} more sites missed rounds")
    if job.unconfirmed:
        said.append(f"{', '.join(job.unconfirmed)} could not confirm that nothing of it runs any more")
    return "; ".join(said)


def _rounds(missed: Sequence[int]) -> str:
    word = "round" if len(missed) == 1 else "rounds"
    return f"{word} {in_ranges([number + 1 for number in missed])}"
