# SPDX-License-Identifier: Apache-2.0
"""Sites: what a controller's `run(sites, state)` talks to.

    for state in sites.rounds(state):
        updates = sites.train(state.model)
        sites.commit(state.next(model=weighted_mean(updates, state.model)))

Who takes part in a round, how long a site may be away and how many must answer is the runtime's
business (`sites` in job.yml), not the controller's. Below is a `Port`: the workflow's process puts
its channel there, tests a fake, the simulator its pool.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flprov.errors import JobFailed, Misuse, NotFound
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.state import State

WEIGHTS = (UpdateKind.FULL, UpdateKind.DIFF)


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


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came back: verified updates, and the reason of each site that gave none."""

    updates: tuple[Update, ...]
    absent: Mapping[str, str] = field(default_factory=dict)


class Port(Protocol):
    """What carries a workflow's asks to the sites and its state to the disk."""

    def ask(self, ask: Ask) -> Answers:
        """Send the task and wait until every site of it has answered or is given up."""
        ...

    def save(self, state: State) -> State:
        """Make `state` durable; what comes back is the same, perhaps mapped from a file."""
        ...

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        """Show some numbers to whoever watches the job."""
        ...


class Sites:
    """The sites of one job, as its workflow sees them.

    Attributes:
        names: every site of the job, in the canonical order (by name).
        total: how many rounds the job asks for.
        absent: site -> reason, of the last broadcast.
    """

    def __init__(self, port: Port, *, names: Sequence[str], tasks: Sequence[str], total: int) -> None:
        self.names = tuple(sorted(names))
        self.total = total
        self.absent: Mapping[str, str] = {}
        self._port = port
        self._tasks = frozenset(tasks)
        self._round: int | None = None  # the one that is open
        self._asked: Counter[str] = Counter()
        self._saved: State | None = None

    def rounds(self, state: State) -> Iterator[State]:
        """The state at the start of each round that is still to do, from `state.round` to `total`.

        Each round must end with `commit`; what was committed is what the next round starts with.

        Raises:
            JobFailed: a round ended without a commit.
        """
        while state.round < self.total:
            self._round, self._saved, self._asked = state.round, None, Counter()
            yield state
            if self._saved is None:
                raise JobFailed(
                    f"round {state.round} of the workflow ended without sites.commit(...)",
                    hint="end each round with sites.commit(state.next(model=...))",
                )
            state = self._saved
        self._round = None

    def has(self, task: str) -> bool:
        """Whether job.yml names this task."""
        return task in self._tasks

    def train(self, model: Tensors, **scalars: Scalar) -> list[Update]:
        """`broadcast` the task "train": new weights, or their difference from `model`."""
        return self._broadcast("train", model, None, WEIGHTS, scalars)

    def evaluate(self, model: Tensors, **scalars: Scalar) -> list[Update]:
        """`broadcast` the task "evaluate": metrics and samples, no tensors."""
        return self._broadcast("evaluate", model, None, (), scalars)

    def broadcast(
        self,
        name: str,
        model: Tensors,
        *,
        to: Sequence[str] | None = None,
        expects: Sequence[UpdateKind] = WEIGHTS,
        **scalars: Scalar,
    ) -> list[Update]:
        """Send `model` and `scalars` as the task `name`; the updates, in canonical site order.

        Every update has been verified against the task. Its tensors are mapped from a file: they take
        memory only where they are touched. Sites that did not answer are in `absent`.

        Args:
            name: a task that job.yml names.
            model: tensors that go to the sites; may be empty, then a `full` update chooses names.
            to: some of `names`; None means all.
            expects: the kinds of update taken; none means metrics only.

        Raises:
            NotFound: job.yml names no such task, or the job has no such site.
            Misuse: outside `rounds`, or a scalar is not a finite number or text.
            JobFailed: nobody answered.
        """
        return self._broadcast(name, model, to, expects, scalars)

    def commit(self, state: State) -> None:
        """End the round with `state`; it is on the server's disk when this returns.

        Raises:
            Misuse: `state` is not the open round's `state.next(...)`, or this round has its commit.
        """
        if self._round is None or self._saved is not None:
            raise Misuse("sites.commit() stands once in each round of `for state in sites.rounds(state)`")
        if state.round != self._round + 1:
            raise Misuse(
                f"round {self._round} was committed with a state of round {state.round}",
                hint="commit state.next(...), made from the state that sites.rounds gave",
            )
        self._saved = self._port.save(state)

    def log(self, name: str, value: float, step: int | None = None) -> None:
        """Show a number to whoever watches the job."""
        self._port.log({name: float(value)}, step)

    def _broadcast(
        self,
        name: str,
        model: Tensors,
        to: Sequence[str] | None,
        expects: Sequence[UpdateKind],
        scalars: Mapping[str, Scalar],
    ) -> list[Update]:
        ask = self._ask(name, model, self.names if to is None else to, expects, scalars)
        answers = self._port.ask(ask)
        self.absent = dict(sorted(answers.absent.items()))
        if not answers.updates:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in self.absent.items())
            raise JobFailed(
                f"no site answered task {name!r} of round {ask.round} ({reasons or 'none asked'})"
            )
        return sorted(answers.updates, key=lambda update: update.site)

    def _ask(
        self,
        name: str,
        model: Tensors,
        to: Sequence[str],
        expects: Sequence[UpdateKind],
        scalars: Mapping[str, Scalar],
    ) -> Ask:
        if self._round is None or self._saved is not None:
            raise Misuse(
                f"task {name!r} was broadcast outside a round",
                hint="broadcast between the start of a round and its sites.commit(...)",
            )
        if name not in self._tasks:
            known = ", ".join(sorted(self._tasks))
            raise NotFound(f"the workflow broadcasts task {name!r}; job.yml names {known}")
        for site in to:
            if site not in self.names:
                raise NotFound(f"task {name!r} was sent to {site!r}, which is no site of this job")
        sequence = self._asked[name]
        self._asked[name] += 1
        if not model and expects:
            expects = [kind for kind in expects if kind is not UpdateKind.DIFF]
            if not expects:
                raise Misuse(f"task {name!r} expects differences, but carries no model to differ from")
        return Ask(
            task_id=f"{self._round}/{name}/{sequence}",
            name=name,
            round=self._round,
            rounds=self.total,
            expects=tuple(expects),
            model=model,
            to=tuple(sorted(set(to))),
            scalars=_verify_scalars(scalars),
        )


def _verify_scalars(scalars: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    for name, value in scalars.items():
        fits = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
        if not fits:
            raise Misuse(f"scalar {name!r} of a task is {value!r}; it must be a finite number or a text")
    return scalars
