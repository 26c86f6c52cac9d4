# SPDX-License-Identifier: Apache-2.0
"""How many answers of a job the site's private filters have blurred: what they promise holds for so many.

The job's log, and a plan of it, say what epsilon the rounds of its job.yml come to. Whoever has more answers
than that, of one round or of a job that was begun again, can average the noise away. So no more leave.
"""

from __future__ import annotations

from flprov.errors import PolicyRefused
from flprov.policy import FilterRules
from flprov.store import Change, Put, Store

_KIND = "blurred"


class Promises:
    """The counts, by job. They outlive the job, as its submission's one use does: what has left has left."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._leaving: dict[str, int] = {}  # counts that may still be on their way to the disk

    def verify_left(self, job_id: str, rules: FilterRules, answers: int) -> None:
        """Raise PolicyRefused if so many updates of the job have left, and `rules` promise an epsilon."""
        if rules.are_private and self._count(job_id) >= answers:
            raise PolicyRefused(
                f"this site's policy promises privacy for {answers} updates of this job, one for each of its"
                " rounds, and these have left",
                hint="a workflow that takes several updates a round needs as many `rounds` in job.yml",
            )

    def count_one(self, job_id: str, rules: FilterRules) -> list[Change]:
        """What counts one more, for the commit that lets it leave."""
        if not rules.are_private:
            return []
        self._leaving[job_id] = count = self._count(job_id) + 1
        return [Put(_KIND, job_id, {"count": count})]

    def take_back(self, job_id: str) -> None:
        """That commit has failed, and nothing has left: what is on the disk counts."""
        self._leaving.pop(job_id, None)

    def _count(self, job_id: str) -> int:
        kept = int((self._store.get(_KIND, job_id) or {}).get("count", 0))
        return max(kept, self._leaving.get(job_id, 0))
