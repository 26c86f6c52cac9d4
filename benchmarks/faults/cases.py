# SPDX-License-Identifier: Apache-2.0
"""What every part of the campaign shares: a case, its verdict, and where a failing one is kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.checker import Violation, check
from faults.history import History, write_history


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How one case ended."""

    case: str
    broken: tuple[str, ...] = ()  # what the checker, or the case itself, has against it
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def green(self) -> bool:
        """Whether every promise was kept."""
        return not self.broken


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the campaign was asked to run."""

    folder: Path  # for networks; each case has a folder of its own in it
    kept: Path  # for the histories of failing cases
    count: int | None = None  # of a part's own unit; None: as many as the issue says
    seed: int = 7
    case: int | None = None  # only this one
    small: bool = False

    def command(self, part: str, case: int) -> str:
        """What to type to have exactly this case again."""
        count = f" --count {self.count}" if self.count is not None else ""
        small = " --small" if self.small else ""
        return f"python benchmarks/faults/run.py --only {part}{count}{small} --seed {self.seed} --case {case}"


def try_case(
    settings: Settings,
    part: str,
    number: int,
    name: str,
    play: Callable[[Path], tuple[History | None, list[str], dict]],
) -> Verdict:
    """Play a case in a folder of its own and judge it; what fails is kept, with its history and logs.

    Args:
        play: gives the history (None: there is none to check), what the case itself found broken, and
            details for the report.
    """
    folder = settings.folder / f"{part}-{number}"
    began = time.monotonic()
    history: History | None = None
    details: dict[str, Any] = {}
    try:
        history, broken, details = play(folder)
    except Exception as error:  # the outermost loop of a case: a crash of the campaign fails the case
        broken = [f"the case could not be played: {type(error).__name__}: {error}"]
    found: list[Violation] = check(history) if history is not None else []
    verdict = Verdict(
        case=f"{part} {number}: {name}",
        broken=(*broken, *map(str, found)),
        seconds=round(time.monotonic() - began, 1),
        details=details,
    )
    if not verdict.green:
        _keep(settings, part, number, folder, history, verdict)
    shutil.rmtree(folder, ignore_errors=True)
    mark = "ok" if verdict.green else "BROKEN"
    print(f"{verdict.case}: {mark} ({verdict.seconds} s)", flush=True)
    return verdict


def _keep(
    settings: Settings, part: str, number: int, folder: Path, history: History | None, verdict: Verdict
) -> None:
    place = settings.kept / f"{part}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if history is not None:
        write_history(history, place / "history.json")
    for log in folder.rglob("*.log"):
        shutil.copy(log, place / "-".join(log.relative_to(folder).parts))
    command = settings.command(part, number)
    (place / "broken.txt").write_text("\n".join([command, *verdict.broken]) + "\n")
    for line in verdict.broken:
        print(f"    {line}")
    print(f"    kept in {place}\n    again:  {command}", flush=True)


def summary(
    verdicts: list[Verdict], *, part: str, name: str, target: str, measured: str, met: bool, **details: Any
) -> dict[str, Any]:
    """One line of the result file, with every case that was broken."""
    broken = {verdict.case: list(verdict.broken) for verdict in verdicts if not verdict.green}
    return {
        "part": part,
        "name": name,
        "target": target,
        "measured": measured,
        "met": met and not broken,
        "details": {"cases": len(verdicts), "broken": broken, **details},
    }
