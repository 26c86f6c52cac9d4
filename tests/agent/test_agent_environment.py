# SPDX-License-Identifier: Apache-2.0
"""Whether a machine can run jobs, thing by thing, and since when it is so."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from agent_parties import NOW

from flprov.agent.environment import Environment
from flprov.wire.documents import CPU, Condition, Space, Vitals, environment_rung

GOOD = Vitals(
    cpu=CPU(count=2, load=0.5, percent=3.0),
    memory=Space(total=2, available=1),
    disk=Space(total=1 << 40, available=1 << 40),
    confinement="landlock",
    python=sys.executable,
    gpu_note="no NVIDIA driver on this machine",
)


def look(tmp_path: Path, vitals: Vitals = GOOD, *, settings: str = "", minute: int = 0, by=None) -> Vitals:
    path = tmp_path / "site.yml"
    path.write_text(settings)
    return (by or Environment()).observe(vitals, path, NOW + timedelta(minutes=minute))


def bad(found: Vitals) -> list[tuple[str, str]]:
    return [(thing.name, thing.reason) for thing in found.environment if not thing.ok]


def test_a_machine_with_everything_is_ready(tmp_path):
    found = look(tmp_path)
    assert bad(found) == []
    assert found.at == NOW
    assert environment_rung(found).ok


def test_each_thing_is_named_with_what_was_found(tmp_path):
    names = [thing.name for thing in look(tmp_path).environment]
    assert names == ["disk", "confinement", "policy", "datasets", "interpreter", "packages", "gpu driver"]


CASES = {
    "a full disk": ({"disk": Space(total=1 << 40, available=5 << 20)}, "", "disk", "5 MiB of disk left"),
    "no confinement": ({"confinement": "none"}, "", "confinement", "cannot be confined"),
    "a policy that allows nobody": ({"notes": ("it allows nobody",)}, "", "policy", "it allows nobody"),
    "data that is not there": ({}, "datasets: {heart: /no/such/data}\n", "datasets", "heart: /no/such/data"),
    "an interpreter that is not there": ({"python": "/no/python"}, "", "interpreter", "/no/python"),
    "a driver with trouble": ({"gpu_note": "NVML: version mismatch"}, "", "gpu driver", "version mismatch"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_and_stands_in_the_way(tmp_path, case):
    changes, settings, name, words = CASES[case]
    found = look(tmp_path, replace(GOOD, **changes), settings=settings)
    [(thing, reason)] = bad(found)
    assert thing == name
    assert words in reason
    assert not environment_rung(found).ok


def test_data_that_is_there_is_named(tmp_path):
    (tmp_path / "heart").mkdir()
    found = look(tmp_path, settings="datasets: {heart: heart}\n")
    assert Condition(name="datasets", ok=True, since=NOW, reason="heart") in found.environment


def test_an_interpreter_that_is_a_folder_or_cannot_be_run_is_none(tmp_path):
    script = tmp_path / "python"
    script.write_text("")
    assert bad(look(tmp_path, replace(GOOD, python=str(tmp_path))))[0][0] == "interpreter"
    assert "cannot be run" in bad(look(tmp_path, replace(GOOD, python=str(script))))[0][1]


def test_an_interpreter_that_does_not_answer_is_told_and_asked_again(tmp_path):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    by = Environment()
    for _ in range(2):
        assert [name for name, _ in bad(look(tmp_path, replace(GOOD, python=str(script)), by=by))] == [
            "packages"
        ]


def test_since_when_changes_with_the_state_and_not_with_each_look(tmp_path):
    by, low = Environment(), replace(GOOD, disk=Space(total=1 << 40, available=5 << 20))
    lower = replace(GOOD, disk=Space(total=1 << 40, available=4 << 20))
    moments = []
    for minute, vitals in enumerate((GOOD, GOOD, low, lower, GOOD)):
        found = look(tmp_path, vitals, minute=minute, by=by)
        moments.append(next(thing.since for thing in found.environment if thing.name == "disk"))
    assert [moment - NOW for moment in moments] == [timedelta(minutes=n) for n in (0, 0, 2, 2, 4)]


def test_since_is_that_of_the_last_thing_that_became_right(tmp_path):
    by, low = Environment(), replace(GOOD, disk=Space(total=1 << 40, available=5 << 20))
    look(tmp_path, low, by=by)
    found = look(tmp_path, GOOD, minute=7, by=by)
    assert environment_rung(found).since == NOW + timedelta(minutes=7)
    assert environment_rung(look(tmp_path, GOOD, minute=90, by=by)).since == NOW + timedelta(minutes=7)
