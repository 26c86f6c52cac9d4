# SPDX-License-Identifier: Apache-2.0
"""Kill points chosen by system call: SIGKILL at the n-th fdatasync, write, rename, ... of an operation.

strace counts the calls of each operation first; the points are then drawn from all that there are. After
each the process is started again, the person asks again with the same token, and nobody repairs a thing.
"""

from __future__ import annotations

import random
import subprocess
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.cases import Settings, Verdict, summary, try_case
from faults.history import History
from faults.operations import OPERATIONS, Operation, Stage
from faults.rig import TERMINAL, Rig
from faults.tracing import counting, kill_at, missing

COUNT = 200
PER_CASE = 5
RESTART = 5.0  # seconds
PATIENCE = 8.0  # seconds for a kill point to be reached
MOST_CALLS = 12  # of one kind that count; later ones are of what follows the operation
_OPERATION_MISSES = 3


@dataclass(frozen=True, kw_only=True)
class Point:
    """The n-th call of a kind, counted from the operation's start."""

    call: str
    number: int


def run(settings: Settings) -> dict[str, Any]:
    """Play the cases; the part's line in the report."""
    if missing():
        return summary([], part="syscalls", name="kill points", target="-", measured=missing(), met=False)
    count = settings.count or (len(OPERATIONS) if settings.small else COUNT)
    cases = _plan(count)
    verdicts = []
    for number, (operation, points) in enumerate(cases):
        if settings.case not in (None, number):
            continue
        name = f"{operation.name}, {points} points"
        seed = f"{settings.seed}/{number}"
        verdicts.append(
            try_case(
                settings,
                "syscalls",
                number,
                name,
                lambda place, operation=operation, points=points, seed=seed: play(
                    place, operation, points, seed
                ),
            )
        )
    return _report(verdicts, count)


def _plan(count: int) -> list[tuple[Operation, int]]:
    """Which operation is killed how often in which case."""
    share, rest = divmod(count, len(OPERATIONS))
    cases = []
    for place, operation in enumerate(OPERATIONS):
        left = share + (place < rest)
        while left:
            cases.append((operation, min(left, PER_CASE)))
            left -= cases[-1][1]
    return cases


def _report(verdicts: list[Verdict], count: int) -> dict[str, Any]:
    done: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    restarts: list[float] = []
    for verdict in verdicts:
        done.update(verdict.details.get("done", {}))
        calls.update(verdict.details.get("calls", {}))
        restarts += verdict.details.get("restarts", [])
    green = sum(verdict.green for verdict in verdicts)
    slowest = max(restarts, default=0.0)
    return summary(
        verdicts,
        part="syscalls",
        name=f"{sum(done.values())} kill points by system call in {len(done)} operations",
        target=f"{count} points; ready again within {RESTART:g} s, nothing to repair by hand",
        measured=f"{green} of {len(verdicts)} cases kept every promise; ready after {slowest:.2f} s at most",
        met=slowest <= RESTART,
        operations=dict(done),
        calls=dict(calls),
        restart_slowest=round(slowest, 3),
    )


def play(
    folder: Path, operation: Operation, points: int, seed: str
) -> tuple[History, list[str], dict[str, Any]]:
    """One network in which one operation is killed at several points."""
    with _rig(folder, operation) as rig:
        stage = Stage(rig=rig, folder=folder)
        player = _Player(stage, operation, random.Random(f"syscalls {seed}"))
        player.count()
        while player.hits < points and player.misses < _OPERATION_MISSES * points:
            player.hit()
        broken = player.broken
        if player.hits < points:
            broken.append(f"not-killed: {player.hits} of {points} points were reached")
        _wind_up(stage, operation)
        details = {
            "done": {operation.name: player.hits},
            "calls": dict(player.calls),
            "restarts": player.restarts,
            "points": player.said,
        }
        return rig.history(), broken, details


def _rig(folder: Path, operation: Operation) -> Rig:
    rig = Rig(folder, operation.name)
    return rig if operation.sites else rig.without_sites()


def _wind_up(stage: Stage, operation: Operation) -> None:
    """Let every job end, so that all of it can be checked."""
    rig = stage.rig
    if not operation.sites:
        for site in rig.sites:
            rig.start(site, ready=False)
    for job in stage.jobs:
        state = rig.insist(lambda admin: admin.job(job).state)  # noqa: B023
        if operation.lasting and state not in TERMINAL:
            rig.abort(job)
        if rig.wait(job) in ("completed", "degraded"):
            rig.take_result(job)
    rig.look_until_clean()


class _Player:
    """Kills one operation at one point after the other."""

    def __init__(self, stage: Stage, operation: Operation, chance: random.Random) -> None:
        self.stage = stage
        self.operation = operation
        self.chance = chance
        self.hits = self.misses = 0
        self.calls: Counter[str] = Counter()
        self.restarts: list[float] = []
        self.broken: list[str] = []
        self.said: list[str] = []
        self._points: list[Point] = []

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        return self.stage.rig.network.running[self.operation.party].process

    def count(self) -> None:
        """Do it once undisturbed, to know which points there are."""
        self.operation.ready(self.stage)
        with counting(self._process.pid, self.stage.folder) as found:
            self.operation.act(self.stage)
        self._points = [
            Point(call=call, number=number)
            for call, most in sorted(found.items())
            for number in range(1, min(most, MOST_CALLS) + 1)
        ]
        self.chance.shuffle(self._points)

    def hit(self) -> None:
        """Do it, and kill at the next point; then start again, and have it done."""
        if not self._points:
            self.misses += 1000
            return
        point = self._points.pop()
        self.operation.ready(self.stage)
        tracer = kill_at(self._process.pid, point.call, point.number)
        acting = threading.Thread(target=self._act)
        acting.start()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.misses += 1
            tracer.close()
        else:
            tracer.close()
            self._start_again(point)
        acting.join()

    def _act(self) -> None:
        try:
            self.operation.act(self.stage)
        except Exception as error:  # told with the case
            self.broken.append(f"refused-after-kill: {type(error).__name__}: {error}")
        finally:
            self.stage.rig.drop_admin()

    def _start_again(self, point: Point) -> None:
        rig, party = self.stage.rig, self.operation.party
        rig.kill(party)
        began = len(rig.restarts)
        rig.start(party)
        self.hits += 1
        self.calls[point.call] += 1
        self.said.append(f"{point.call} {point.number}")
        self.restarts += [round(seconds, 3) for seconds in rig.restarts[began:]]
        for seconds in rig.restarts[began:]:
            if seconds > RESTART:
                self.broken.append(f"server-slow: ready only after {seconds:.1f} s")
