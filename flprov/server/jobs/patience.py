# SPDX-License-Identifier: Apache-2.0
"""When a connected site makes no progress: judged by what it does, never by how long it takes.

A site stands still when neither a step, nor a byte, nor what it is doing has changed for longer than
its patience. Patience is the job's `absence`, or three times the longest that this site has needed for
one step of this job, if that is more: who takes an hour for a step is slow, not stuck. A task of which
no step was ever told is not judged, as nobody can tell work that says nothing from none.
docs/membership.md is for users.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

STEPS = 3  # as long as so many of its slowest steps


@dataclass(frozen=True, kw_only=True)
class Still:
    """A site that has not moved since."""

    site: str
    since: datetime
    until: datetime  # when its patience ends
    seen: str  # what was heard last: "step 120"

    @property
    def said(self) -> str:
        """For an operator."""
        return f"{self.site} makes no progress since {self.since:%H:%M:%S} UTC ({self.seen})"

    def shows(self, now: datetime) -> bool:
        """Whether half of its patience is over: it is shown long before anything is done about it."""
        return now >= self._half

    def moments(self, now: datetime) -> list[datetime]:
        """When to look at it again."""
        return [moment for moment in (self._half, self.until) if moment > now]

    @property
    def _half(self) -> datetime:
        return self.since + (self.until - self.since) / 2


@dataclass
class Pace:
    """How a site moves within one job."""

    moved_at: datetime
    seen: str
    judged: bool = False  # it has told of progress in what it does now
    slowest: timedelta = timedelta()  # the longest step of the job so far

    def begin(self, now: datetime, seen: str, *, judged: bool) -> None:
        """It was told to do something."""
        self.moved_at, self.seen, self.judged = now, seen, judged

    def move(self, now: datetime, seen: str, *, stepped: bool) -> None:
        """Something of it has changed."""
        if stepped:
            self.slowest = max(self.slowest, now - self.moved_at)
        self.moved_at, self.seen, self.judged = now, seen, True

    def still(self, site: str, absence: timedelta) -> Still | None:
        """How it stands; None while it cannot be judged."""
        if not self.judged:
            return None
        until = self.moved_at + max(absence, STEPS * self.slowest)
        return Still(site=site, since=self.moved_at, until=until, seen=self.seen)


def in_words(round_: int, step: int, doing: str, done: int, total: int) -> str:
    """`round 3, step 120`, or `fetching model, 4 MiB of 10 MiB`."""
    if doing:
        return f"{doing}, {_size(done)} of {_size(total)}" if total else doing
    return f"round {round_ + 1}, step {step}"


def _size(count: int) -> str:
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
