# SPDX-License-Identifier: Apache-2.0
"""A short sample of the fault campaign; `make faults` runs all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import fulldisk, kills, syscalls, tracing
from faults.apps import SMALL
from faults.cases import Settings, try_case
from faults.checker import check
from faults.history import read_history
from faults.kills import Case

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.network


def problems(history, broken):
    """Everything but how long a start took: that is for a quiet machine, and for the campaign."""
    return [line for line in (*broken, *map(str, check(history))) if not line.startswith("server-slow")]


def test_killed_processes_cost_nothing_that_was_promised(tmp_path):
    models = {SMALL: kills.undisturbed(tmp_path / "calm", SMALL)}
    case = Case(
        number=0,
        kinds=("server", "worker", "agent", "shim", "workflow"),
        moment="run",
        size=SMALL,
        seed="sample",
    )
    history, broken, details = kills.play(tmp_path / "kills", case, models)
    assert problems(history, broken) == []
    assert sum(details["killed"].values()) == 5


def test_killed_at_a_system_call(tmp_path):
    if tracing.missing():
        pytest.skip(tracing.missing())
    operation = next(one for one in syscalls.OPERATIONS if one.name == "round close")
    history, broken, details = syscalls.play(tmp_path / "rig", operation, 1, "sample")
    assert problems(history, broken) == []
    assert details["done"] == {"round close": 1}


def test_a_server_whose_disk_is_full_serves_what_it_must_and_recovers(tmp_path):
    if fulldisk.missing():
        pytest.skip(fulldisk.missing())
    history, broken, _ = fulldisk.server_full(tmp_path)
    assert problems(history, broken) == []


def test_a_case_that_fails_is_kept_and_says_how_to_repeat_it(tmp_path, recorded, capsys):
    settings = Settings(folder=tmp_path / "rigs", kept=tmp_path / "kept", count=3, seed=9)

    def play(folder: Path):
        folder.mkdir(parents=True)
        return recorded, ["promise-broken: on purpose"], {}

    verdict = try_case(settings, "kills", 2, "on purpose", play)
    assert not verdict.green
    assert check(read_history(tmp_path / "kept/kills-2/history.json")) == []
    again = "python benchmarks/faults/run.py --only kills --count 3 --seed 9 --case 2"
    assert again in capsys.readouterr().out
    assert again in (tmp_path / "kept/kills-2/broken.txt").read_text()


def test_the_same_seed_kills_the_same(tmp_path):
    assert kills.plan(50, 7) == kills.plan(50, 7) != kills.plan(50, 8)
    kinds = [kind for case in kills.plan(50, 7) for kind in case.kinds]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == dict.fromkeys(kills.KINDS, 50)


def test_the_script_writes_its_result_files(tmp_path):
    words = [sys.executable, str(ROOT / "benchmarks/faults/run.py"), "--only", "queueing", "--count", "100"]
    words += ["-o", str(tmp_path), "--kept", str(tmp_path / "kept")]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=100
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: a machine that is busy took too long
    document = json.loads((tmp_path / "faults.json").read_text())
    assert [part["part"] for part in document["parts"]] == ["queueing"]
    details = document["parts"][0]["details"]
    assert (details["there"], details["broken"]) == (100, {}), done.stdout
    assert "cores" in document["parts"][0]["machine"]
    assert "100 jobs submitted at once" in (tmp_path / "faults.md").read_text()
