# SPDX-License-Identifier: Apache-2.0
"""Gathering: a task that is under way at some sites, and the port that carries it.

    gathering = sites.start("train", model, to=["a", "b"])
    for update in gathering:        # as they come
        ...
    updates = gathering.updates()   # all of them, in canonical site order

Several may be under way at once, as long as no site has two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypedDict

from flprov.errors import JobFailed
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.state import State


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One task for some sites."""

    task_id: str  # the same again when a round is run again after a crash
    name: str
    round: int
    rounds: int
    expects: tuple[UpdateKind, ...]  # empty: an answer has metrics, but no tensors
    model: Tensors
    to: tuple[str, ...]
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    extra: Tensors = field(default_factory=dict)
    extra_of: Mapping[str, Tensors] = field(default_factory=dict)  # site -> what it gets instead of `extra`
    requires: tuple[str, ...] = ()  # names in `scalars` and `extra` that the trainer has to look at
    optional: bool = False  # no quorum: a site that does not answer is no reason to end the job


class AskOptions(TypedDict, total=False):
    """What may be said about a task besides its name, its model and its sites.

    Keys:
        expects: the kinds of update taken; none means metrics only. Left out: full or diff.
        scalars: numbers and texts, as `task.scalars`.
        extra: tensors beside the model, as `task.extra`; no update has to fit them.
        extra_of: site -> tensors that this site gets instead of `extra`; no other site can read them.
        requires: names in `extra` and `scalars` that the trainer has to look at, lest the algorithm
            silently become another one; a trainer that does not fails its task.
        optional: the job's `sites.min` does not hold for this task: a site that fails or is away is only
            named in `absent`. `sites.required` holds all the same.
    """

    expects: Sequence[UpdateKind]
    scalars: Mapping[str, Scalar] | None
    extra: Tensors | None
    extra_of: Mapping[str, Tensors] | None
    requires: Sequence[str]
    optional: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a task at one site: a verified update, or the reason why there is none."""

    task_id: str
    site: str
    update: Update | None = None
    reason: str = ""  # why there is none
    last: bool = False  # nothing more comes for this task


class Port(Protocol):
    """What carries a workflow's asks to the sites and its state to the disk."""

    def ask(self, ask: Ask) -> None:
        """Send the task; its answers come out of `wait`."""
        ...

    def wait(self, tasks: Collection[str]) -> Answer:
        """The next answer to one of these tasks, in the order of arrival."""
        ...

    def withdraw(self, task_id: str) -> None:
        """Wait for nobody's answer to this task any more; the last answers to it still come."""
        ...

    def refuse(self, task_id: str, site: str, reason: str) -> None:
        """This site's update counts as one that the runtime's own checks have refused."""
        ...

    def save(self, state: State) -> State:
        """Make `state` durable before anything that is asked after it; what comes back is the same, perhaps
        mapped from a file.
        """
        ...

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Show some numbers to whoever watches the job."""
        ...

    def report(self, text: str) -> None:
        """Show what the workflow is doing."""
        ...

    def aborted(self) -> bool:
        """Whether the workflow is to end; does not wait."""
        ...


class Gathering:
    """The answers to one task. Iterating waits for the next update; it ends when nobody is waited for.

    Attributes:
        name: the task's.
        sites: who was asked, in canonical order.
        absent: site -> reason, of those that will not answer, as far as known.
        done: nobody is waited for any more.
    """

    def __init__(self, port: Port, ask: Ask) -> None:
        self.name = ask.name
        self.sites = ask.to
        self.absent: dict[str, str] = {}
        self.done = not ask.to
        self.task_id = ask.task_id
        self._round = ask.round
        self._port = port
        self._asked = frozenset(ask.to)
        self._came: dict[str, Update] = {}
        self._fresh: dict[str, Update] = {}  # those of them that were not given out

    def __iter__(self) -> Iterator[Update]:
        while True:
            update = self.fresh()
            if update is not None:
                yield update
            elif self.done:
                return
            else:
                self.take(self._port.wait([self.task_id]))

    @property
    def waiting(self) -> tuple[str, ...]:
        """Sites that have not answered."""
        if self.done:
            return ()
        return tuple(site for site in self.sites if self.awaits(site))

    def awaits(self, site: str) -> bool:
        """Whether this site was asked, and has not answered."""
        waited = not self.done and site in self._asked
        return waited and site not in self._came and site not in self.absent

    def fresh(self) -> Update | None:
        """An update that has come and was not given out by iterating; None when there is none now."""
        first = next(iter(self._fresh), None)
        return None if first is None else self._fresh.pop(first)

    def take(self, answer: Answer) -> None:
        """Note an answer that the port gave."""
        if answer.update is not None:
            self.absent.pop(answer.site, None)  # it had been given up, and came after all
            if answer.site not in self._came or answer.site in self._fresh:  # each site's counts once
                self._fresh[answer.site] = answer.update
            self._came[answer.site] = answer.update
        elif answer.site:
            self.absent[answer.site] = answer.reason or "no reason given"
        self.done = self.done or answer.last

    def holds(self, update: Update) -> bool:
        """Whether this very update came for this task."""
        return self._came.get(update.site) is update

    def refuse(self, update: Update, reason: str) -> None:
        """Do not accept an update that came; see `Sites.refuse`."""
        self._port.refuse(self.task_id, update.site, reason)
        del self._came[update.site]
        self._fresh.pop(update.site, None)
        self.absent[update.site] = reason

    def updates(self) -> list[Update]:
        """Wait until nobody is waited for; every update, in canonical site order.

        Raises:
            JobFailed: nobody answered.
        """
        while not self.done:
            self.take(self._port.wait([self.task_id]))
        if not self._came:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(self.absent.items()))
            raise JobFailed(
                f"no site answered task {self.name!r} of round {self._round} ({reasons or 'none asked'})"
            )
        return [self._came[site] for site in sorted(self._came)]

    def stop(self) -> None:
        """Do not wait for the sites that have not answered: they are free for other tasks.

        They are not `absent`: nobody needs their answers, and the job is not degraded for it. A site that
        is at work on this task finishes it before it begins another.
        """
        if not self.done:
            self.withdraw()
            while not self.done:
                self.take(self._port.wait([self.task_id]))

    def withdraw(self) -> None:
        """Tell the sites that have not answered that nobody waits for them, and go on at once.

        Waiting for this task ends soon after; a timer's thread may call it while another one waits.
        """
        if not self.done:
            self._port.withdraw(self.task_id)
