# SPDX-License-Identifier: Apache-2.0
"""Every workflow that docs/workflows/own.md shows, copied from the page and run."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flprov.jobs import load_job
from flprov.messages import Site, Task, Update
from flprov.sdk import Sites, State, build_controller, read_state
from flprov.simulator import Simulation, simulate

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "workflows" / "own.md"
BLOCK = re.compile(r"\*\*`([\w/.]+)`\*\*\n\n```\w+\n(.*?)```", re.DOTALL)
NAMES = ("site-1", "site-2", "site-3", "site-4")


@pytest.fixture
def app(tmp_path: Path, monkeypatch) -> Path:
    """Every file that the page names, where it says."""
    for name, text in BLOCK.findall(PAGE.read_text()):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "own"), str(ROOT / "tests" / "sdk"), *sys.path])
    yield tmp_path / "own"
    for path in (tmp_path / "own").glob("*.py"):
        sys.modules.pop(path.stem, None)


def run(app: Path, entry: str, *, die_at=None, saved=None, fails=()):
    """The port and the last state of this workflow, over four sites that do what work.py says."""
    work, ports = importlib.import_module("work"), importlib.import_module("ports")

    def answer(ask, site):
        if site in fails:
            return "out of order"
        extra = ask.extra_of.get(site, ask.extra)
        task = Task(
            name=ask.name, params=ask.model, round=ask.round, rounds=2, job_id="j", scalars=ask.scalars
        )
        found: Update = getattr(work, ask.name)(
            replace(task, extra=extra), Site(name=site, job_id="j", folder=app)
        )
        return found

    spec = load_job(app)
    port = ports.FakePort(answer, die_at=die_at)
    sites = Sites(port, names=NAMES, tasks=list(spec.tasks), total=2, seed=spec.workflow.seed)
    state = State(model=work.initial()) if saved is None else read_state(saved)
    try:
        build_controller("", entry, {}).run(sites, state)
    except ports.Killed:
        return port, None
    return port, read_state(port.saved[-1]) if port.saved else state


ENTRIES = {
    "median:Median": [2.0, 2.0, 2.0],
    "momentum:Momentum": [2.5, 2.5, 2.5],  # 1, then 1 and half of 1 more
    "parts:Parts": [5.0, 5.0, 5.0],  # the mean of steps 2 and 3, twice
    "chain:Chain": [10.0, 10.0, 10.0],  # five turns a round
    "first:First": [2.0, 2.0, 2.0],
    "patient:Patient": [2.0, 2.0, 2.0],
}


def test_the_page_shows_these_workflows(app):
    shown = {path.stem for path in app.glob("*.py")} - {"work"}
    assert shown == {entry.partition(":")[0] for entry in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_workflow_of_the_page_does_what_it_says(app, entry):
    _, state = run(app, entry)
    assert state.model["w"].tolist() == ENTRIES[entry]


@pytest.mark.parametrize("entry", ENTRIES)
def test_killed_after_its_first_round_it_ends_with_the_same_bits(app, entry):
    whole, _ = run(app, entry)
    for step in range(whole.steps):
        killed, _ = run(app, entry, die_at=step)
        if killed.saved:
            again, _ = run(app, entry, saved=killed.saved[-1])
            assert [*killed.saved, *again.saved] == whole.saved


def test_chain_goes_on_with_whoever_answers(app):
    port, state = run(app, "chain:Chain", fails=("site-1",))
    assert state.model["w"][0] == 2 * (1 + 3)
    assert state.metrics == {"turns": 3.0}
    assert all(ask.optional for ask in port.asks)


def test_momentum_leaves_its_history(app):
    assert run(app, "momentum:Momentum")[1].results == {"history.json": [1.0, 2.5]}


def test_patient_tells_what_it_does_and_returns_when_it_is_aborted(app):
    port, _ = run(app, "patient:Patient")
    assert port.reported[:2] == ["refining, 0 % done", "refining, 1 % done"]
    assert port.logged[0] == ({"left": 100.0}, 0)


def test_the_first_app_runs_in_the_simulator(app):
    done, _ = simulate(Simulation(app=app, sites=3, output=app.parent / "out"))
    assert (done.state, [record.metrics for record in done.rounds]) == ("completed", [{"sites": 3.0}] * 2)
