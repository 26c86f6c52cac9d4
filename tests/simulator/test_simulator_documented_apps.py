# SPDX-License-Identifier: Apache-2.0
"""The apps that docs/writing-apps.md shows, copied from the page and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors

PAGE = Path(__file__).parents[2] / "docs" / "writing-apps.md"
BLOCK = re.compile(r"\*\*`([\w/.]+)`\*\*\n\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """Every file that the page names, where it says."""
    for name, text in BLOCK.findall(PAGE.read_text()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(apps: Path, name: str, sites: int = 2) -> tuple[object, Path]:
    output = apps / "result"
    done, _ = simulate(Simulation(app=apps / name, sites=sites, output=output))
    assert done.state == "completed", done
    return done, output


def test_the_page_shows_three_whole_apps(apps):
    assert {path.parent.name for path in apps.glob("*/job.yml")} == {
        "torch_script",
        "functions",
        "own_workflow",
    }


def test_the_functions_come_closer_to_the_goal_by_what_the_filter_lets_through(apps):
    done, output = run(apps, "functions")
    # The goal is (6, 6, 6); each round moves by 1.0 in all, so by 1/sqrt(3) in each number.
    assert done.rounds[-1].metrics["mean"] == pytest.approx(4 / 3**0.5, rel=1e-5)
    assert read_tensors(output / "model.safetensors")["w"][0] == pytest.approx(4 / 3**0.5, rel=1e-5)


def test_the_own_workflow_takes_the_median(apps):
    done, output = run(apps, "own_workflow", sites=3)
    assert read_tensors(output / "model.safetensors")["w"].tolist() == [3.0, 3.0, 3.0]
    assert [record.metrics["sites"] for record in done.rounds] == [3.0, 3.0, 3.0]


@pytest.mark.slow
def test_the_torch_script_learns(apps):
    done, _ = run(apps, "torch_script")
    losses = [record.metrics["loss"] for record in done.rounds]
    assert losses[-1] < losses[0]
