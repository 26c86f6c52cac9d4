#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where the time of a round goes, from the end of one to the end of the next, over all processes.

    python benchmarks/roundprofile.py [--sites 2] [--rounds 300] [--app benchmarks/apps/rounds] [-o FOLDER]

A real network with marks in its server and agents (`marks/`), which cost some 5 % of an empty round. Of each
round the site that answers last is followed: nobody waits for the others. Medians of each step; the steps of
a round add up to the round, their medians nearly so. Writes `round.json` and `round.png` where `-o` says.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Any

from trial import Trial, follow

HERE = Path(__file__).resolve().parent
# Told apart by all eyes (Okabe and Ito, "Color Universal Design", 2008).
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#999999")
WARM = 2.0  # seconds before the marks are set: connections and processes are then what they stay

STEPS = (
    "workflow: the next task",
    "server: task to its sites' streams",
    "network: task to the site",
    "site: task to the job's process",
    "job: the task itself",
    "site: answer checked, on disk, said",
    "network: answer to the server",
    "server: answer to the workflow",
    "workflow: fold, new state",
    "server: state and round on disk",
)


def main() -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description="Where the time of a round goes.")
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--app", type=Path, default=HERE / "apps" / "rounds")
    parser.add_argument("--set", action="append", default=[], help="as of `flprov job submit`")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flprov-profile-") as folder:
        rounds = read_rounds(*_measure(Path(folder), options))
    if not rounds:
        print("no round was seen whole: ask for more --rounds", file=sys.stderr)
        return 1
    found = summary(rounds)
    print("\n".join(table(found)))
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "round.json").write_text(json.dumps(found, indent=1) + "\n")
        _plot(found, options.output / "round.png")
    return 0


def _measure(folder: Path, options: argparse.Namespace) -> tuple[list[Any], dict[str, list[Any]]]:
    """The marks of the server, and of each site."""
    os.environ["FLPROV_MARKS"] = str(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(HERE / "marks"), os.environ.get("PYTHONPATH")])
    )
    trial = Trial(folder, sites=options.sites)
    # A trial keeps variables of flprov from its network; this one is for the marks.
    trial._environment["FLPROV_MARKS"] = str(folder)
    trial.up()
    try:
        state = json.loads(trial.command("poc", "status", "-o", str(trial.folder), "--json"))
        parties = {party["name"]: party["pid"] for party in state["parties"]}
        words = [word for each in (f"rounds={options.rounds}", *options.set) for word in ("--set", each)]
        with trial.admin() as admin:
            job = trial.submit(options.app, *words)["job_id"]
            time.sleep(WARM)
            _signal(parties)
            follow(admin, job)
            _signal(parties)
        marks = {name: _read(folder / f"{name}.json") for name in parties}
    finally:
        trial.down()
    return marks.pop("server"), marks


def _signal(parties: dict[str, int]) -> None:
    for pid in parties.values():
        os.kill(pid, signal.SIGUSR2)


def _read(path: Path) -> list[Any]:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            found: list[Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            time.sleep(0.05)
        else:
            return found
    raise TimeoutError(f"{path.stem} has not written its marks")


class Line:
    """The marks of one process, by label."""

    def __init__(self, marks: list[Any]) -> None:
        self._at: dict[str, list[int]] = {}
        for at, label in marks:
            self._at.setdefault(label, []).append(at)

    def all(self, label: str) -> list[int]:
        """Every moment of it."""
        return self._at.get(label, [])

    def first(self, label: str, begin: int, end: int) -> int | None:
        """The first one after `begin`, not after `end`."""
        at = self.all(label)
        place = bisect_right(at, begin)
        return at[place] if place < len(at) and at[place] <= end else None

    def last(self, label: str, begin: int, end: int) -> int | None:
        """The last one before `end`, after `begin`."""
        at = self.all(label)
        place = bisect_left(at, end) - 1
        return at[place] if place >= 0 and at[place] > begin else None


def read_rounds(server: list[Any], sites: dict[str, list[Any]]) -> list[list[float]]:
    """Of each round that was seen whole, the milliseconds of each step."""
    here, there = Line(server), {name: Line(marks) for name, marks in sites.items()}
    ends = here.all(">told saved")
    rounds = [_read_round(here, there, begin, end) for begin, end in pairwise(ends)]
    return [found for found in rounds if found is not None]


def _read_round(here: Line, there: dict[str, Line], begin: int, end: int) -> list[float] | None:
    taken = {name: here.last(f"<taken answer {name}", begin, end) for name in there}
    name = max(there, key=lambda name: taken[name] or 0)
    site, queued = there[name], here.first(f">queued task {name}", begin, end)
    moments = [
        begin,
        here.last("<heard broadcast", begin, queued or end) or begin,  # it may have been said before
        queued,
        site.first("<ordered", begin, end),
        site.first(">told task", begin, end),
        site.first("<heard answer", begin, end),
        site.first(">reported answer", begin, end),
        taken[name],
        here.last(">told answer", begin, end),
        here.first("<heard close", begin, end),
        end,
    ]
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments):
        return None
    return [(later - earlier) / 1e6 for earlier, later in pairwise(known)]


def summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Medians of the steps, and of the rounds."""
    whole = sorted(sum(round_) for round_ in rounds)
    steps = [statistics.median(step) for step in zip(*rounds, strict=True)]
    return {
        "rounds": len(rounds),
        "median_ms": round(statistics.median(whole), 3),
        "p99_ms": round(whole[int(len(whole) * 0.99)], 3),
        "steps_ms": {name: round(value, 3) for name, value in zip(STEPS, steps, strict=True)},
    }


def table(found: dict[str, Any]) -> list[str]:
    """Lines to read."""
    total = sum(found["steps_ms"].values())
    lines = [f"{found['rounds']} rounds, median {found['median_ms']} ms, p99 {found['p99_ms']} ms", ""]
    for name, value in found["steps_ms"].items():
        lines.append(f"{name:38} {value:9.3f} ms  {value / total:4.0%}  {'#' * round(40 * value / total)}")
    return lines


def _plot(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes, left = figure.subplots(), 0.0
    for (name, value), colour in zip(found["steps_ms"].items(), _COLOURS * 2, strict=False):
        hatch = "" if left == 0 or name in STEPS[: len(_COLOURS)] else "//"
        axes.barh([""], [value], left=left, label=f"{name}, {value:.2f}", color=colour, hatch=hatch)
        left += value
    axes.set_xlabel("milliseconds, median of each step")
    figure.legend(fontsize=7, ncols=2, loc="outside lower center")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
