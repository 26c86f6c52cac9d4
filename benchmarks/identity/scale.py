#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How long `flprov provision` takes for 1,000 sites, for one more, and for a plan of all.

python benchmarks/identity/scale.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from network import large_project

SITES, FEW = 1_000, 20
RUNS = 3
FIRST, MORE = 3.0, 1.0  # seconds
FLPROV = [sys.executable, "-m", "flprov"]


def run(folder: Path, *, small: bool = False) -> dict[str, Any]:
    """Provision as a user does, several times; medians count."""
    sites = FEW if small else SITES
    rounds = [_once(folder / f"run-{number}", sites) for number in range(1 if small else RUNS)]
    first, plan, more = (statistics.median(values) for values in zip(*rounds, strict=True))
    return {
        "name": f"provision {sites:,} sites, then one more",
        "target": f"<= {FIRST:g} s, and <= {MORE:g} s for one more",
        "measured": f"{first:.2f} s; one more {more:.2f} s; a plan of all {plan:.2f} s",
        "met": first <= FIRST and more <= MORE,
        "details": {
            "first": [r[0] for r in rounds],
            "plan": [r[1] for r in rounds],
            "more": [r[2] for r in rounds],
        },
    }


def _once(folder: Path, sites: int) -> tuple[float, float, float]:
    folder.mkdir(parents=True)
    project, workspace = folder / "project.yml", folder / "ws"
    project.write_text(large_project(sites))
    first = _timed("provision", project, workspace)
    project.write_text(large_project(sites + 1))
    plan = _timed("plan", project, workspace, expected=7)
    return first, plan, _timed("provision", project, workspace)


def _timed(verb: str, project: Path, workspace: Path, *, expected: int = 0) -> float:
    began = time.monotonic()
    done = subprocess.run([*FLPROV, verb, str(project), "-o", str(workspace)], capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode != expected:
        raise SystemExit(f"{verb} ended with {done.returncode}: {done.stderr[-2000:]}")
    return round(seconds, 3)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(run(Path(name), small="--small" in sys.argv), indent=2))
