# SPDX-License-Identifier: Apache-2.0
"""Sites: what a controller's `run(sites, state)` talks to.

    for state in sites.rounds(state):
        updates = sites.train(state.model)
        sites.commit(state.next(model=weighted_mean(updates, state.model)))

Who takes part in a round, how long a site may be away and how many must answer is the runtime's
business (`sites` in job.yml), not the controller's. Below is a `Port`: the workflow's process puts
its channel there, tests a fake.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np

from flprov.errors import JobFailed, Misuse, NotFound
from flprov.messages import Scalar, Tensors, Update, UpdateKind
from flprov.sdk.aggregation import weighted_mean
from flprov.sdk.curves import read_step, read_values
from flprov.sdk.gathering import Ask, AskOptions, Gathering, Port
from flprov.sdk.runtime_tasks import RUNTIME_TASKS
from flprov.sdk.selection import Selection
from flprov.sdk.state import State

WEIGHTS = (UpdateKind.FULL, UpdateKind.DIFF)


class Sites:
    """The sites of one job, as its workflow sees them.

    Attributes:
        names: every site of the job, in the canonical order (by name).
        total: how many rounds the job asks for.
        absent: site -> reason, of the last task that was waited for.
        seed: `workflow.seed` of job.yml.
    """

    def __init__(
        self,
        port: Port,
        *,
        names: Sequence[str],
        tasks: Sequence[str],
        total: int,
        seed: int = 0,
        selection: Selection | None = None,
    ) -> None:
        self.names = tuple(sorted(names))
        self.total = total
        self.absent: Mapping[str, str] = {}
        self.seed = seed
        self._port = port
        self._known = frozenset(self.names)
        self._tasks = frozenset(tasks)
        self._round: int | None = None  # the one that is open
        self._asked: Counter[str] = Counter()
        self._gatherings: list[Gathering] = []  # of the open round
        self._sampled = 0  # how often in this round
        self._saved: State | None = None
        self._selection = selection or Selection()

    def rounds(self, state: State, total: int | None = None) -> Iterator[State]:
        """The state at the start of each round that is still to do, from `state.round` to `total`.

        Each round must end with `commit`; what was committed is what the next round starts with.

        Args:
            state: what to go on from.
            total: how many rounds the workflow takes, where that is not the job's to say.

        Raises:
            JobFailed: a round ended without a commit.
        """
        if total is not None:
            self.total = total
        while not self.is_last(state):
            self._round, self._saved, self._asked, self._sampled = state.round, None, Counter(), 0
            yield state
            if self._saved is None:
                raise JobFailed(
                    f"round {state.round} of the workflow ended without sites.commit(...)",
                    hint="end each round with sites.commit(state.next(model=...))",
                )
            state = self._saved
        self._round = None

    def judge(self, state: State) -> State:
        """`state`, the end of this round, with what `commit` makes of its `best`: see `Selection`.

        Raises:
            JobFailed: no round has reported that metric, and this one does not.
        """
        return self._selection.judge(state)

    def is_last(self, state: State) -> bool:
        """Whether no round follows on `state`, as `judge` gives it: all are done, or patience has run out."""
        return state.round >= self.total or bool(self._selection.reason_to_end(state))

    def has(self, task: str) -> bool:
        """Whether job.yml names this task."""
        return task in self._tasks

    def sample(self, fraction: float, among: Sequence[str] | None = None) -> tuple[str, ...]:
        """A random part of the sites, at least one, in canonical order: C of FedAvg's Algorithm 1.

        It follows from the job's seed, the round and how often this was called in it, so that a round
        that is run again after a crash asks the same sites.

        Args:
            fraction: above 0, at most 1.
            among: sites to choose from; None means all.

        Raises:
            Misuse: the fraction is out of its range, or nobody is there to choose from.
        """
        pool = sorted(self.names if among is None else among)
        if not (0 < fraction <= 1 and pool):
            raise Misuse(f"a sample of {fraction} of {len(pool)} sites; a fraction is above 0 and at most 1")
        text = f"{self.seed}/{self._round}/{self._sampled}".encode()
        self._sampled += 1
        source = np.random.default_rng(list(hashlib.blake2b(text, digest_size=16).digest()))
        count = max(1, round(fraction * len(pool)))
        return tuple(sorted(pool[number] for number in source.permutation(len(pool))[:count]))

    def train(
        self, model: Tensors, *, to: Sequence[str] | None = None, **options: Unpack[AskOptions]
    ) -> list[Update]:
        """`broadcast` the task "train": new weights, or their difference from `model`."""
        return self.broadcast("train", model, to=to, **options)

    def evaluate(
        self, model: Tensors, *, to: Sequence[str] | None = None, scalars: Mapping[str, Scalar] | None = None
    ) -> list[Update]:
        """`broadcast` the task "evaluate": metrics and samples, no tensors."""
        return self.broadcast("evaluate", model, to=to, expects=(), scalars=scalars)

    def broadcast(
        self, name: str, model: Tensors, *, to: Sequence[str] | None = None, **options: Unpack[AskOptions]
    ) -> list[Update]:
        """`start` a task and wait for all; the updates, in canonical site order.

        Sites that did not answer are in `absent`.

        Raises:
            JobFailed: nobody answered.
        """
        gathering = self.start(name, model, to=to, **options)
        try:
            return gathering.updates()
        finally:
            self.absent = dict(sorted(gathering.absent.items()))

    def send(self, site: str, name: str, model: Tensors, **options: Unpack[AskOptions]) -> Update:
        """`broadcast` a task to one site, and what it answers.

        Raises:
            JobFailed: it does not; with `optional=True` that is for the caller to deal with.
        """
        (update,) = self.broadcast(name, model, to=[site], **options)
        return update

    def relay(
        self, name: str, model: Tensors, order: Sequence[str] | None = None, **options: Unpack[AskOptions]
    ) -> tuple[Tensors, list[Update]]:
        """`send` a task to one site after the other: each gets the weights that the one before has given.

        A site that does not answer is passed over and named in `absent`; the next one gets what it was to
        get. `sites.required` of job.yml says who must not be passed over.

        Args:
            name: the task.
            model: what the first site gets.
            order: the sites, in this order; None means all, by name.
            **options: as for `start`, for each of them.

        Returns:
            What the last one gave, and every update in the order of the sites' turns.

        Raises:
            JobFailed: nobody answered.
        """
        turns = self.names if order is None else order
        updates: list[Update] = []
        absent: dict[str, str] = {}
        options["optional"] = True  # whoever fails is passed over
        for site in turns:
            gathering = self.start(name, model, to=[site], **options)
            found = list(gathering)
            absent |= gathering.absent
            for update in found:
                model = weighted_mean([replace(update, weight=1.0)], model)
            updates += found
        self.absent = dict(sorted(absent.items()))
        if not updates:
            raise JobFailed(f"no site answered task {name!r} of round {self._round}{_in_words(absent)}")
        return model, updates

    def start(
        self, name: str, model: Tensors, *, to: Sequence[str] | None = None, **options: Unpack[AskOptions]
    ) -> Gathering:
        """Send `model` as the task `name`, and go on at once.

        Every update will have been verified against the task. Its tensors are mapped from a file: they
        take memory only where they are touched.

        Args:
            name: a task that job.yml names, or one of the runtime's own.
            model: tensors that go to the sites; may be empty, then a `full` update chooses names.
            to: some of `names`; None means all.
            **options: what else goes with the task, and what it takes; see `AskOptions`.

        Raises:
            NotFound: job.yml names no such task, or the job has no such site.
            Misuse: outside `rounds`, a scalar is not a finite number or text, or a site has not
                answered the task before.
        """
        ask = self._ask(name, model, self.names if to is None else to, options)
        for one in self._gatherings:
            busy = [] if one.done else [site for site in ask.to if one.awaits(site)]
            if busy:
                raise Misuse(
                    f"task {name!r} was sent to {busy[0]}, which has not answered task {one.name!r}",
                    hint="wait for it, or stop() the gathering",
                )
        gathering = Gathering(self._port, ask)
        if ask.to:  # to name nobody is to name all of them, where the task goes next
            self._port.ask(ask)
        self._gatherings.append(gathering)
        return gathering

    def replies(self, *gatherings: Gathering) -> Iterator[tuple[Gathering, Update]]:
        """The updates of several tasks that are under way, as they come; ends when nobody is waited for."""
        while True:
            for one in gatherings:
                while (update := one.fresh()) is not None:
                    yield one, update
            if self.wait_answer(*gatherings) is None:
                return

    def wait_answer(self, *gatherings: Gathering) -> Gathering | None:
        """Wait until one more site has answered, or will not: whose answer it is; None when all are done."""
        under_way = {one.task_id: one for one in gatherings if not one.done}
        if not under_way:
            return None
        answer = self._port.wait(list(under_way))
        under_way[answer.task_id].take(answer)
        return under_way[answer.task_id]

    def refuse(self, update: Update, reason: str) -> None:
        """Do not accept an update of this round, which only the workflow can judge (ciphertexts, say).

        It counts as one that the runtime's own checks have refused: its site is `absent` with the reason,
        the job is degraded, and fails when too few are left.

        Raises:
            Misuse: the update is none that a task of this round has brought.
        """
        for gathering in self._gatherings:
            if gathering.holds(update):
                gathering.refuse(update, reason)
                self.absent = dict(sorted({**self.absent, update.site: reason}.items()))
                return
        raise Misuse(f"an update of {update.site or 'nobody'} was refused that is none of this round")

    def commit(self, state: State) -> None:
        """End the round with `state`; it is on the server's disk before anybody hears of the next round.

        Whoever has not answered by then is not waited for any more.

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
        for gathering in self._gatherings:
            gathering.stop()
        self._gatherings = []
        self._saved = self._port.save(self.judge(state))

    def log(self, name: str, value: float, step: int | None = None) -> None:
        """Show a number to whoever watches the job. What is not finite is only printed.

        Raises:
            Misuse: it is not a number, or the step is not a whole number from 0 on.
        """
        values, step = read_values({name: value}), read_step(step)
        if values:
            self._port.log(values, step)

    def report(self, text: str) -> None:
        """Show what the workflow is doing to whoever watches the job, until it says something else."""
        self._port.report(text)

    def aborted(self) -> bool:
        """Whether the job is being stopped; does not wait.

        For a controller that computes for long. Who asks once is trusted to return from `run` by itself,
        within the job's grace; whatever it still asks of its sites ends it.
        """
        return self._port.aborted()

    def _ask(self, name: str, model: Tensors, to: Sequence[str], options: AskOptions) -> Ask:
        if self._round is None or self._saved is not None:
            raise Misuse(
                f"task {name!r} was broadcast outside a round",
                hint="broadcast between the start of a round and its sites.commit(...)",
            )
        if name not in self._tasks and name not in RUNTIME_TASKS:
            known = ", ".join(sorted(self._tasks))
            raise NotFound(f"the workflow broadcasts task {name!r}; job.yml names {known}")
        own = options.get("extra_of") or {}
        for site in to:
            if site not in self._known:
                raise NotFound(f"task {name!r} was sent to {site!r}, which is no site of this job")
        stray = sorted(own.keys() - set(to))
        if stray:
            raise Misuse(f"task {name!r} has tensors for {stray[0]!r}, to which it was not sent")
        sequence = self._asked[name]
        self._asked[name] += 1
        return Ask(
            task_id=f"{self._round}/{name}/{sequence}",
            name=name,
            round=self._round,
            rounds=self.total,
            expects=_verify_expects(name, model, options.get("expects", WEIGHTS)),
            model=model,
            to=tuple(sorted(set(to))),
            scalars=_verify_scalars(options.get("scalars") or {}),
            extra=options.get("extra") or {},
            extra_of=own,
            requires=tuple(options.get("requires", ())),
            optional=options.get("optional", False),
        )


def _verify_expects(name: str, model: Tensors, expects: Sequence[UpdateKind]) -> tuple[UpdateKind, ...]:
    if model or not expects:
        return tuple(expects)
    found = tuple(kind for kind in expects if kind is not UpdateKind.DIFF)
    if not found:
        raise Misuse(f"task {name!r} expects differences, but carries no model to differ from")
    return found


def _in_words(absent: Mapping[str, str]) -> str:
    reasons = "; ".join(f"{site}: {reason}" for site, reason in sorted(absent.items()))
    return f" ({reasons or 'none asked'})"


def _verify_scalars(scalars: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    for name, value in scalars.items():
        fits = isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))
        if not fits:
            raise Misuse(f"scalar {name!r} of a task is {value!r}; it must be a finite number or a text")
    return scalars
