# SPDX-License-Identifier: Apache-2.0
"""Which blobs the records of ended jobs name. It is asked after every round, however many have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class KeptBlobs:
    """An index: what an ended job keeps changes only when checkpoints of it are thrown away, or the job."""

    def __init__(self) -> None:
        self._of: dict[str, frozenset[str]] = {}  # job -> digests
        self._jobs: Counter[str] = Counter()  # digest -> how many jobs name it

    def put(self, job_id: str, digests: Iterable[str]) -> None:
        """This job has ended, and keeps these; whatever it kept before."""
        self.drop(job_id)
        self._of[job_id] = kept = frozenset(digests)
        self._jobs.update(kept)

    def drop(self, job_id: str) -> None:
        """This job keeps nothing."""
        for digest in self._of.pop(job_id, ()):
            self._jobs[digest] -= 1
            if not self._jobs[digest]:
                del self._jobs[digest]

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Those that no ended job names."""
        return {digest for digest in digests if digest not in self._jobs}
