# SPDX-License-Identifier: Apache-2.0
"""One broadcast of a round: who was asked, who answered, who is still waited for. Pure state.

The rule of membership (architecture, section 5): a round is over when every site that was asked
has answered, failed, or been away (or stood still) for longer than it may - and a site may only be
given up while those that remain still make the quorum and hold every required site. A site that was
given up may still answer as long as others are waited for, if the job takes late updates. A workflow
may withdraw a task: then nobody is waited for, and those who had not answered are not missing either.
Waiting is a reason, not a state; nothing here has a clock of its own. docs/membership.md is for users.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from flprov.server.jobs.patience import Still
from flprov.server.records import BlobRef, UpdateRecord


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a workflow broadcast."""

    task_id: str
    name: str
    round: int
    rounds: int
    expects: str
    model: BlobRef
    scalars: bytes
    sites: tuple[str, ...]
    extra: BlobRef | None = None  # tensors beside the model, for every site
    extra_of: Mapping[str, BlobRef] = field(default_factory=dict)  # for one site alone, instead of `extra`
    requires: tuple[str, ...] = ()
    optional: bool = False  # no quorum

    def given(self, site: str) -> set[str]:
        """Digests of what this site, which is one of them, may fetch for the task."""
        extra = self.extra_of.get(site, self.extra)
        return {self.model.digest, extra.digest if extra else ""} - {""}

    @property
    def blobs(self) -> set[str]:
        """Digests of everything that goes with the task."""
        extras = [*([self.extra] if self.extra else []), *self.extra_of.values()]
        return {ref.digest for ref in (self.model, *extras)} - {""}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is to be done about the sites that have not answered."""

    give_up: Mapping[str, str] = field(default_factory=dict)  # site -> reason
    look_again: datetime | None = None  # when the next absence runs out
    waiting: str = ""  # the reason for an operator
    hopeless: bool = False  # the quorum cannot be reached any more


class Gather:
    """The answers to one broadcast."""

    def __init__(
        self,
        asked: Asked,
        *,
        quorum: int,
        required: Iterable[str],
        absence: timedelta,
        takes_late: bool = True,
    ) -> None:
        self.asked = asked
        self._asked = frozenset(asked.sites)
        self._open = dict.fromkeys(sorted(asked.sites))  # whose answer is awaited; asked about at each answer
        self._takes_late = takes_late
        self._quorum = 0 if asked.optional else min(quorum, len(asked.sites))
        self._required = frozenset(required) & self._asked
        self._absence = absence
        self.taken: dict[str, UpdateRecord] = {}
        self.failed: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self.given_up: set[str] = set()  # those of the absent who may yet answer
        self.withdrawn = False  # the workflow needs no further answer
        self.spared: tuple[str, ...] = ()  # who had not answered by then

    def take(self, update: UpdateRecord) -> None:
        """Record an accepted update; that its site was given up is withdrawn."""
        self.taken[update.site] = update
        self._open.pop(update.site, None)
        self.absent.pop(update.site, None)
        self.given_up.discard(update.site)

    def fail(self, site: str, reason: str) -> None:
        """Record that the task failed at this site."""
        self.failed[site] = reason
        self._open.pop(site, None)

    def refuse(self, site: str, reason: str) -> None:
        """Record that this site's update was not acceptable, also one that had been taken."""
        self.taken.pop(site, None)
        self.refused[site] = reason
        self._open.pop(site, None)

    def lose(self, site: str, reason: str) -> None:
        """Record that this site will not answer."""
        self.absent[site] = reason
        self._open.pop(site, None)
        self.given_up.discard(site)

    def give_up(self, site: str, reason: str) -> None:
        """Record that this site is not waited for any more."""
        self.absent[site] = reason
        self._open.pop(site, None)
        self.given_up.add(site)

    def withdraw(self) -> None:
        """The workflow goes on without those who have not answered; nobody lacks."""
        self.spared = self.open
        self._open.clear()
        self.withdrawn = True
        self.given_up.clear()

    def takes_late(self, site: str) -> bool:
        """Whether an answer of this site, which was given up, still counts."""
        return self._takes_late and site in self.given_up and self.is_open

    def asks(self, site: str) -> bool:
        """Whether this site was sent the task."""
        return site in self._asked

    def awaits(self, site: str) -> bool:
        """Whether this site's answer is still awaited."""
        return site in self._open

    @property
    def is_open(self) -> bool:
        """Whether any site's answer is still awaited."""
        return bool(self._open)

    @property
    def open(self) -> tuple[str, ...]:
        """Sites whose answer is still awaited, in canonical order."""
        return tuple(self._open)

    @property
    def missing(self) -> dict[str, str]:
        """Every site that will not contribute, and why."""
        return self.absent | self.failed | self.refused

    def judge(
        self, away: Mapping[str, datetime], now: datetime, still: Mapping[str, Still] | None = None
    ) -> Verdict:
        """What to do now about open sites, of which those in `away` have been gone since then.

        Args:
            away: sites without a control stream, and since when.
            now: the time.
            still: sites that are connected and do not move.
        """
        still = {site: found for site, found in (still or {}).items() if site not in away}
        possible = len(self.taken) + len(self._open)
        lost_required = sorted(self._required & self.missing.keys()) if self._required else []
        if self.withdrawn:
            return Verdict()
        if possible < self._quorum or lost_required:
            return Verdict(hopeless=True, waiting=self._hopeless(possible, lost_required))
        give_up: dict[str, str] = {}
        deadlines: list[datetime] = []
        held: list[str] = []
        # Of those who are here and move, nothing follows.
        waited = sorted(self._open.keys() & (away.keys() | still.keys()))
        for site in waited:
            deadline = away[site] + self._absence if site in away else still[site].until
            spare = possible - len(give_up) > self._quorum and site not in self._required
            if now < deadline:
                deadlines += [deadline] if site in away else still[site].moments(now)
            elif spare:
                give_up[site] = (
                    f"not connected since {away[site]:%H:%M:%S} UTC" if site in away else still[site].said
                )
            else:
                held.append(site)
        gone = [site for site in waited if site in away and site not in give_up]
        slow = [still[site].said for site in waited if site in still and still[site].shows(now)]
        return Verdict(
            give_up=give_up,
            look_again=min(deadlines, default=None),
            waiting=self._waiting(gone, [site for site in held if site in away])
            or self._standing([] if give_up else slow, [site for site in held if site in still]),
        )

    def _standing(self, slow: list[str], held: list[str]) -> str:
        rest = f"; the job needs {self._quorum} sites" if held else ""
        return "; ".join(slow) + rest if slow else ""

    def _hopeless(self, possible: int, lost_required: list[str]) -> str:
        if lost_required:
            return f"{lost_required[0]} is required and did not contribute: {self.missing[lost_required[0]]}"
        first = next(iter(self.missing.items()), ("", ""))
        return f"{possible} of {self._quorum} needed sites are left; {first[0]}: {first[1]}"

    def _waiting(self, away: list[str], held: list[str]) -> str:
        if held:
            return f"waiting for {', '.join(held)} to return: the job needs {self._quorum} sites"
        if away:
            return f"waiting up to {self._absence.total_seconds():g} s for {', '.join(away)} to return"
        return ""
