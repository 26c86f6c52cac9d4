# SPDX-License-Identifier: Apache-2.0
"""Every workflow of the registry, killed at random moments: in the end it has the bits of an undisturbed run.

Each runs once in peace, and then as often as it takes for the server, an agent, a worker, a shim and the
workflow's process to be killed during it. What must be equal: every file that the workflow hands over,
and the metrics of every round. Encrypted averages are decrypted with an error that is another one in each
run, and blurred on purpose when they are released (docs/workflows/fedavg-he.md): they must be equal to 2e-5.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from faults.apps import SMALL
from faults.cases import Settings, Verdict, summary, try_case
from faults.history import History
from faults.kills import Case, Player
from faults.rig import KINDS, Rig
from faults.workflowapps import APPS, WorkflowApp
from flprov.wire import read_tensors

COUNT = 1  # of each kind, for each workflow
MOMENTS = ("run", "run", "run", "submit", "finish")
SECONDS = 0.2  # that a task takes
_OURS = ("metrics.json", "record.json", "series.jsonl")  # the runtime's own, with times in them


def plan(count: int, seed: int) -> list[tuple[WorkflowApp, Case]]:
    """For each workflow every kind `count` times, shuffled; the same for the same seed."""
    chance = random.Random(f"workflows {seed} {count}")
    cases = []
    for number, app in enumerate(APPS):
        kinds = [kind for kind in KINDS for _ in range(count)]
        chance.shuffle(kinds)
        moment = chance.choice(MOMENTS) if app.rounds > 1 else "run"
        case = Case(number=number, kinds=tuple(kinds), moment=moment, size=SMALL, seed=f"{seed}/{number}")
        cases.append((app, case))
    return cases


def run(settings: Settings) -> dict[str, Any]:
    """Play the cases; the part's line in the report."""
    cases = [
        (app, case)
        for app, case in plan(settings.count or COUNT, settings.seed)
        if settings.case in (None, case.number)
    ]
    verdicts = [
        try_case(
            settings,
            "workflows",
            case.number,
            f"{app.name}, kill {', '.join(case.kinds)} ({case.moment})",
            functools.partial(play, app=app, case=case),
        )
        for app, case in (cases[:2] if settings.small else cases)
    ]
    return report(verdicts)


def report(verdicts: list[Verdict]) -> dict[str, Any]:
    """The line in the report."""
    kept = sum(verdict.green for verdict in verdicts)
    kills = sum(sum(verdict.details.get("killed", {}).values()) for verdict in verdicts)
    jobs = sum(verdict.details.get("jobs", 0) for verdict in verdicts)
    furthest = max((verdict.details.get("furthest", 0.0) for verdict in verdicts), default=0.0)
    return summary(
        verdicts,
        part="workflows",
        name=f"{len(verdicts)} workflows, {kills} processes killed in {jobs} jobs",
        target="every result as undisturbed, bit by bit; fedavg_he within 2e-5",
        measured=f"{kept} of {len(verdicts)} workflows kept every promise; fedavg_he within {furthest:.1e}",
        met=True,
        kills=kills,
        jobs=jobs,
        furthest=furthest,
    )


class WorkflowPlayer(Player):
    """Kills what runs a workflow, and compares what the job has come to."""

    def __init__(self, rig: Rig, case: Case, app: WorkflowApp, folder: Path, calm: Outcome) -> None:
        super().__init__(rig, case, folder, "", rounds=app.rounds)
        self.broken: list[str] = []
        self.furthest = 0.0
        self.jobs = 0
        self._calm = calm
        self._blur = app.blur

    def settle(self, job: str) -> None:
        """Fetch all that the job has come to, and compare it."""
        state = self.rig.insist(lambda admin: admin.job(job).state)
        if state not in ("completed", "degraded"):
            return  # the checker says so
        self.jobs += 1
        found = Outcome(self.rig, job)
        self.rig.note_result(job, found.digest)
        if not self._blur and found.digest != self._calm.digest:
            self.broken.append(f"result-differs: {job}: {found.difference(self._calm)}")
        elif self._blur:
            away = found.distance(self._calm)
            self.furthest = max(self.furthest, away)
            if not away <= self._blur:
                self.broken.append(f"result-differs: {job}: by {away:g}, more than {self._blur:g}")


class Outcome:
    """What a job has come to: the files of its workflow, and the metrics of each round."""

    def __init__(self, rig: Rig, job: str) -> None:
        files = rig.take_files(job)
        self.files = {
            name: data for name, data in sorted(files.items()) if "/" not in name and name not in _OURS
        }
        rounds = rig.insist(lambda admin: admin.job(job).rounds)
        self.metrics = [dict(sorted(record.metrics.items())) for record in rounds]

    @property
    def digest(self) -> str:
        """Of all of it."""
        shown = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        return hashlib.sha256(json.dumps([shown, self.metrics]).encode()).hexdigest()

    def difference(self, other: Outcome) -> str:
        """Where two outcomes differ, in words."""
        names = sorted(self.files.keys() | other.files.keys())
        found = [name for name in names if self.files.get(name) != other.files.get(name)]
        found += [f"metrics of round {n}" for n, (a, b) in enumerate(self._pairs(other), 1) if a != b]
        return ", ".join(found) or "another number of rounds"

    def distance(self, other: Outcome) -> float:
        """By how much the numbers differ at most; infinite where there are others."""
        if self.files.keys() != other.files.keys() or len(self.metrics) != len(other.metrics):
            return float("inf")
        apart = [abs(a[name] - b[name]) for a, b in self._pairs(other) for name in a]
        for name, data in self.files.items():
            mine, theirs = read_tensors(data), read_tensors(other.files[name])
            apart += [float(np.abs(mine[key].astype(float) - theirs[key]).max()) for key in mine]
        return max(apart)

    def _pairs(self, other: Outcome) -> list[tuple[dict[str, float], dict[str, float]]]:
        return list(zip(self.metrics, other.metrics, strict=False))


def play(folder: Path, app: WorkflowApp, case: Case) -> tuple[History, list[str], dict[str, Any]]:
    """One case: its history, what it found itself, and its numbers."""
    with Rig(folder, f"workflows {app.name}") as rig:
        calm = rig.submit(app.write(folder / "calm", 0.0), "calm")
        state = rig.wait(calm)
        if state != "completed":
            return rig.history(), [f"the undisturbed job is {state}"], {}
        undisturbed = Outcome(rig, calm)
        player = WorkflowPlayer(rig, case, app, app.write(folder / "steps", SECONDS), undisturbed)
        player.play()
        missed = [kind for kind in case.kinds if not player.killed[kind]]
        details = {"killed": dict(player.killed), "jobs": player.jobs, "furthest": player.furthest}
        return rig.history(), [*player.broken, *(f"not-killed: {kind}" for kind in missed)], details
