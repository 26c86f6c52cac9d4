# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at random moments of a job over three sites: server, agent, worker, shim, workflow.

The killed agent or server is started again at once, as systemd would. Nobody but flprov starts a
worker, shim or workflow again. Several kills hit one job, and in the end it has the very bytes that an
undisturbed one has.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.apps import LARGE, SMALL, write_steps
from faults.cases import Settings, Verdict, summary, try_case
from faults.history import Expectation, History
from faults.rig import KINDS, Rig

COUNT = 50  # of each kind
PER_CASE = 5
ROUNDS = 8
MOMENTS = ("run", "run", "run", "run", "run", "submit", "abort", "finish")  # each as often as it stands here
MOST_OF_ONE_PARTY = 3  # kills of one job's processes at one party: flprov starts them again so often
RESTART = 5.0  # seconds
LONGEST = 1.0  # seconds between two kills


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is killed in one network, in which order."""

    number: int
    kinds: tuple[str, ...]
    moment: str
    size: int
    seed: str

    @property
    def name(self) -> str:
        """In words."""
        model = "a small" if self.size == SMALL else "a large"
        return f"kill {', '.join(self.kinds)} ({self.moment}, {model} model)"


def plan(count: int, seed: int) -> list[Case]:
    """Every kind `count` times, shuffled, five to a case; the same for the same seed."""
    chance = random.Random(f"kills {seed} {count}")
    kinds = [kind for kind in KINDS for _ in range(count)]
    chance.shuffle(kinds)
    groups = [tuple(kinds[n : n + PER_CASE]) for n in range(0, len(kinds), PER_CASE)]
    return [
        Case(
            number=n,
            kinds=group,
            moment=chance.choice(MOMENTS),
            size=chance.choice((SMALL, LARGE)),
            seed=f"{seed}/{n}",
        )
        for n, group in enumerate(groups)
    ]


def run(settings: Settings) -> dict[str, Any]:
    """Play the cases; the part's line in the report."""
    count = settings.count or COUNT
    cases = [case for case in plan(count, settings.seed) if settings.case in (None, case.number)]
    models = {size: undisturbed(settings.folder / f"calm-{size}", size) for size in {c.size for c in cases}}
    verdicts = [
        try_case(
            settings, "kills", case.number, case.name, lambda place, case=case: play(place, case, models)
        )
        for case in cases
    ]
    return report(verdicts)


def report(verdicts: list[Verdict]) -> dict[str, Any]:
    """The line, with how long things took."""
    done: Counter[str] = Counter()
    restarts: list[float] = []
    clean: list[float] = []
    for verdict in verdicts:
        done.update(verdict.details.get("killed", {}))
        restarts += verdict.details.get("restarts", [])
        clean += verdict.details.get("clean_after", [])
    kept = sum(verdict.green for verdict in verdicts)
    slowest = max(restarts, default=0.0)
    return summary(
        verdicts,
        part="kills",
        name="SIGKILL of " + ", ".join(f"{kind} {done[kind]} times" for kind in KINDS),
        target="nothing acknowledged lost or doubled; nothing left 10 s later; the same model, bit by bit",
        measured=f"{kept} of {len(verdicts)} networks kept every promise; "
        f"server ready again after {slowest:.2f} s at most; "
        f"clean {max(clean, default=0):.1f} s after the end at most",
        met=slowest <= RESTART,
        killed=dict(done),
        restart_median=round(statistics.median(restarts), 3) if restarts else None,
        restart_slowest=round(slowest, 3),
        clean_slowest=round(max(clean, default=0.0), 2),
    )


def undisturbed(folder: Path, size: int) -> str:
    """The digest of the model of a job that nothing is done to."""
    with Rig(folder, "calm") as rig:
        job = rig.submit(write_steps(folder / "steps", size=size, rounds=ROUNDS, seconds=0), "calm")
        state = rig.wait(job)
        if state != "completed":
            raise SystemExit(f"the undisturbed job is {state}: {rig.insist(lambda a: a.why(job).answer)}")
        return rig.take_result(job)


class Player:
    """Plays one case."""

    def __init__(self, rig: Rig, case: Case, app: Path, model: str, *, rounds: int = ROUNDS) -> None:
        self.rig = rig
        self.rounds = rounds
        self.case = case
        self.chance = random.Random(case.seed)
        self.model = model
        self.app = app
        self.killed: Counter[str] = Counter()
        self.clean_after: list[float] = []
        self.job = ""
        self._hit: Counter[str] = Counter()  # a job's processes, by party

    def play(self) -> None:
        """Kill everything on the list; as many jobs as that takes."""
        left = list(self.case.kinds)
        for number in range(len(left) + 3):
            if number and not left:
                break
            moment = "run" if number else self.case.moment  # the further jobs are for what is left to kill
            left = self._one_job(f"{self.case.number}-{number}", left, moment)
        self.clean_after.append(self.rig.look_until_clean())

    def _one_job(self, token: str, left: list[str], moment: str) -> list[str]:
        """Submit, kill, wait. What is still to be killed."""
        self._hit.clear()
        submitting = threading.Thread(target=self._submit, args=(token,))
        submitting.start()
        if moment == "submit" and left:
            left = self._kill_next(left, 0.0, 0.05)
        submitting.join()
        job = self.job
        states = ("aborted", "completed") if moment == "abort" else ("completed",)
        self.rig.expect(
            job,
            Expectation(
                states=states,
                rounds=self.rounds,
                model=self.model,
                contributors=tuple(self.rig.sites),
                quorum=len(self.rig.sites) if moment != "abort" else 0,
            ),
        )
        ended = threading.Event()
        threading.Thread(target=self._wait, args=(job, ended), daemon=True).start()
        if moment == "finish":
            self._until_last_round(job)
        while left and not ended.is_set():
            if moment == "abort" and len(left) <= 2:
                break
            left = self._kill_next(left, 0.02, 0.15 if moment == "finish" else LONGEST, ended)
        if moment == "abort":
            left = self._abort(job, left, ended)
        ended.wait(120)
        self.settle(job)
        return left

    def _submit(self, token: str) -> None:
        self.job = self.rig.submit(self.app, token)
        self.rig.drop_admin()

    def _wait(self, job: str, ended: threading.Event) -> None:
        try:
            self.rig.wait(job)
        finally:
            ended.set()
            self.rig.drop_admin()

    def _until_last_round(self, job: str) -> None:
        for seen in self.rig.insist(lambda admin: list(_until_round(admin, job, self.rounds - 1))):
            del seen

    def _abort(self, job: str, left: list[str], ended: threading.Event) -> list[str]:
        """Ask for the end, and kill while that is under way."""
        asking = threading.Thread(target=self._ask, args=(job,))
        asking.start()
        while left and not ended.is_set():
            left = self._kill_next(left, 0.0, 0.2, ended)
        asking.join()
        return left

    def _ask(self, job: str) -> None:
        self.rig.abort(job)
        self.rig.drop_admin()

    def _kill_next(
        self, left: list[str], shortest: float, longest: float, ended: threading.Event | None = None
    ) -> list[str]:
        """Kill the next one of the list that may be killed, after a moment of chance."""
        delay = self.chance.uniform(shortest, longest)
        if ended is None:
            time.sleep(delay)
        elif ended.wait(delay):
            return left
        patience = 0.0 if ended is None else 1.0
        spare = [party for party, hits in self._hit.items() if hits >= MOST_OF_ONE_PARTY]
        for place, kind in enumerate(left):
            seen = self.rig.strike(kind, self.chance, patience=patience, spare=spare)
            if seen is None:
                continue
            if seen.job:
                self._hit[seen.party] += 1
            self.killed[kind] += 1
            return left[:place] + left[place + 1 :]
        return left

    def settle(self, job: str) -> None:
        """The job has ended: fetch what it has come to."""
        state = self.rig.insist(lambda admin: admin.job(job).state)
        if state in ("completed", "degraded"):
            self.rig.take_result(job)


def _until_round(admin: Any, job: str, rounds: int) -> Any:
    for seen in admin.watch(job):
        yield seen
        if seen.rounds_done >= rounds:
            return


def play(folder: Path, case: Case, models: dict[int, str]) -> tuple[History, list[str], dict[str, Any]]:
    """One case: its history, what it found itself, and its numbers."""
    with Rig(folder, f"kills {case.number}") as rig:
        app = write_steps(folder / "steps", size=case.size, rounds=ROUNDS)
        player = Player(rig, case, app, models[case.size])
        player.play()
        details = {
            "killed": dict(player.killed),
            "restarts": [round(seconds, 3) for seconds in rig.restarts[1:]],
            "clean_after": [round(seconds, 2) for seconds in player.clean_after],
        }
        slow = [f"server-slow: ready only after {s:.1f} s" for s in rig.restarts[1:] if s > RESTART]
        missed = Counter(case.kinds) - player.killed
        lacking = [f"not-killed: {kind} {count} times" for kind, count in missed.items()]
        return rig.history(), slow + lacking, details
