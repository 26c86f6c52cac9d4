# SPDX-License-Identifier: Apache-2.0
"""examples/fedbuff: the steps of the server by hand, and that it goes on without who is slow or fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from app_runner import ROOT
from ports import FakePort

from flprov.messages import Site, Task, Update, UpdateKind
from flprov.sdk import Sites, State, read_state
from flprov.simulator import Simulation, simulate

Load = Callable[[str], ModuleType]
NAMES = ("site-1", "site-2", "site-3", "site-4")


@pytest.fixture
def fedbuff(load_example: Load) -> ModuleType:
    return load_example("fedbuff/fedbuff")


@pytest.fixture
def digits(load_example: Load) -> ModuleType:
    return load_example("fedbuff/digits")


def run(workflow, answer, *, rounds=1):
    """The port, and the state after the last round."""
    port = FakePort(answer)
    sites = Sites(port, names=NAMES, tasks=["train", "measure"], total=rounds, seed=3)
    workflow.run(sites, State(model={"w": np.zeros(1, np.float32)}))
    return port, read_state(port.saved[-1])


def one_more(ask, site):
    """Every update is 1: the model is the sum of what each of them counted."""
    if ask.name == "measure":
        return Update(metrics={"accuracy": 0.5}, samples=2)
    return Update(params={"w": np.ones(1, np.float32)}, kind=UpdateKind.DIFF, samples=1)


def trained(port):
    return [ask for ask in port.asks if ask.name == "train"]


def test_an_update_counts_less_the_more_steps_it_missed(fedbuff):
    port, state = run(fedbuff.FedBuff(buffer=1, steps=3, concurrency=2), one_more)
    # The first two begin with version 0; the second of them is one step late, and so is the third.
    assert [ask.scalars["version"] for ask in trained(port)] == [0, 0, 1, 2]
    assert state.metrics == {"accuracy": 0.5, "staleness": pytest.approx(2 / 3)}
    assert state.model["w"][0] == pytest.approx(1 + 2 / np.sqrt(2))


def test_the_server_steps_by_the_mean_of_a_full_buffer(fedbuff):
    port, state = run(fedbuff.FedBuff(buffer=2, steps=1, concurrency=2, lr=0.5), one_more)
    assert {float(ask.model["w"][0]) for ask in trained(port)} == {0.0}
    assert state.model["w"][0] == 0.5
    assert port.reported == ["step 1 of 1"]


def test_no_site_trains_twice_at_once_and_only_so_many_do(fedbuff):
    port, _ = run(fedbuff.FedBuff(buffer=2, steps=4, concurrency=3), one_more)
    assert all(len(ask.to) == 1 and ask.optional for ask in trained(port))
    assert len({ask.to for ask in trained(port)[:3]}) == 3
    assert len(trained(port)) == 2 * 4 + 2  # the last two were under way when the round ended


def test_a_site_that_fails_is_left_out_of_the_round(fedbuff):
    def answer(ask, site):
        return "no disk" if ask.name == "train" and site == "site-2" else one_more(ask, site)

    port, _ = run(fedbuff.FedBuff(buffer=2, steps=4, concurrency=4), answer, rounds=2)
    asked = Counter((ask.round, *ask.to) for ask in trained(port))
    assert [asked[(number, "site-2")] for number in (0, 1)] == [1, 1]


def test_when_every_site_fails_the_job_does(fedbuff):
    with pytest.raises(RuntimeError, match="no site is left"):
        run(fedbuff.FedBuff(), lambda ask, site: "no disk")


def test_parts_are_disjoint_and_training_learns_from_one(digits):
    sizes = [
        (len(digits.load_part(n, held_out=False)[1]), len(digits.load_part(n, held_out=True)[1]))
        for n in range(1, 11)
    ]
    assert sum(map(sum, sizes)) == 1797
    site = Site(name="site-3", job_id="j", folder=Path())
    first = digits.first_weights()
    task = Task(name="train", params=first, round=0, rounds=1, job_id="j", scalars={"version": 0}, seed=1)
    update = digits.train(task, site, epochs=3, lr=0.2, pause=0.0)
    again = digits.train(task, site, epochs=3, lr=0.2, pause=0.0)
    assert all((update.params[name] == again.params[name]).all() for name in first)
    after = Task(name="measure", params=update.params, round=0, rounds=1, job_id="j")  # the start was zero
    assert digits.measure(after, site).metrics["accuracy"] > 0.7


def test_the_app_runs_in_the_simulator(tmp_path):
    settings = {"workflow.rounds": "1", "args.epochs": "3"}
    app = ROOT / "examples" / "fedbuff"
    done, _ = simulate(Simulation(app=app, sites=3, output=tmp_path / "out", settings=settings))
    assert done.state == "completed", done.reason
    (record,) = done.rounds
    assert record.metrics["accuracy"] > 0.75
    assert len(record.contributors) == 3
