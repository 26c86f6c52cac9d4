# SPDX-License-Identifier: Apache-2.0
"""The trainer that docs/workflows/README.md shows, copied from the page and run under each workflow."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from flprov.messages import Site, Task
from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors

PAGE = Path(__file__).parents[2] / "docs" / "workflows" / "README.md"
BLOCK = re.compile(r"\*\*`(blobs/[\w.]+)`\*\*\n\n```\w+\n(.*?)```", re.DOTALL)
FUNCTION = re.compile(r"```python\n(from flprov.messages import Task.*?)```", re.DOTALL)
ROUNDS = 3


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    for name, text in BLOCK.findall(PAGE.read_text()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path / "blobs"


def run(app: Path, workflow: str, sites: int = 3):
    text = (app / "job.yml").read_text()
    text = re.sub(
        r"workflow: .*", f"workflow: {{{workflow}, rounds: {ROUNDS}, best: error, mode: min}}", text
    )
    (app / "job.yml").write_text(text)
    output = app.parent / "result"
    done, _ = simulate(Simulation(app=app, sites=sites, output=output))
    assert done.state == "completed", done
    return done, output


def verify_learned(done, output):
    errors = [record.metrics["error"] for record in done.rounds]
    assert len(errors) == ROUNDS
    assert errors[-1] < errors[0]
    best = json.loads((output / "best.json").read_text())
    assert best == {
        "metric": "error",
        "mode": "min",
        "value": min(errors),
        "round": errors.index(min(errors)),
    }
    kept, last = read_tensors(output / "best.safetensors"), read_tensors(output / "model.safetensors")
    assert kept.keys() == last.keys()
    if best["round"] == ROUNDS - 1:
        assert np.array_equal(kept["weight"], last["weight"])


def test_scaffold_reaches_each_site_with_its_own_correction(blobs):
    verify_learned(*run(blobs, "type: scaffold"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "workflow",
    ["type: fedprox, mu: 0.1", "type: fedopt, momentum: 0.3", "type: cyclic, order: random"],
)
def test_the_trainer_of_the_page_learns_under_each_workflow(blobs, workflow):
    verify_learned(*run(blobs, workflow))


def test_the_function_of_the_page_holds_to_the_model_under_fedprox(tmp_path):
    [text] = FUNCTION.findall(PAGE.read_text())
    space: dict[str, object] = {}
    exec(compile(text, str(PAGE), "exec"), space)
    ends = []
    for mu in (0.0, 2.0):
        task = Task(name="train", params={"w": np.ones(1)}, round=0, rounds=1, job_id="j", scalars={"mu": mu})
        update = space["train"](task, Site(name="a", job_id="j", folder=tmp_path), 0.1)
        ends.append(float(update.params["w"][0]))
    # w = (1 - 0.1 · 2) w each time; with mu, w = w - 0.1 (2 w + 2 (w - 1)), which ends at 1/2
    assert ends == [pytest.approx(0.8**10), pytest.approx(0.5 + 0.5 * 0.6**10)]
