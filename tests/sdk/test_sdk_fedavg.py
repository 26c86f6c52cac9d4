# SPDX-License-Identifier: Apache-2.0
"""FedAvg on toy numbers, killed and resumed at every step."""

import numpy as np
import pytest
from ports import FakePort, Killed

from flprov.messages import Update, UpdateKind
from flprov.sdk import FedAvg, Sites, State, read_state

SAMPLES = {"a": 1, "b": 3}
TARGET = {"a": 0.0, "b": 8.0}


def train(ask, site):
    """Each site goes half of the way to its own target; `a` sends differences, `b` weights."""
    w = ask.model["w"]
    new = w + (TARGET[site] - w) / 2
    metrics = {"loss": float(np.abs(TARGET[site] - new).sum())}
    if site == "a":
        return Update(params={"w": new - w}, kind=UpdateKind.DIFF, samples=1, metrics=metrics)
    return Update(params={"w": new}, samples=3, metrics=metrics)


def answer(ask, site):
    if ask.name == "evaluate":
        return Update(samples=SAMPLES[site], metrics={"accuracy": float(ask.model["w"][0])})
    return train(ask, site)


def run(port, state, *, tasks=("train",), total=4):
    FedAvg().run(Sites(port, names=["b", "a"], tasks=tasks, total=total), state)


def test_two_rounds_by_hand():
    port = FakePort(answer)
    run(port, State(model={"w": np.array([2.0])}), total=2)
    first, last = (read_state(data) for data in port.saved)
    # round 0: a at 1, b at 5: (1 + 3 * 5) / 4 = 4; losses 1 and 3
    assert first.model["w"].tolist() == [4.0]
    assert first.metrics == {"loss": 2.5}
    # round 1: a at 2, b at 6: (2 + 18) / 4 = 5; losses 2 and 2
    assert last.model["w"].tolist() == [5.0]
    assert last.metrics == {"loss": 2.0}
    assert last.round == 2


def test_an_evaluate_task_measures_the_new_model():
    port = FakePort(answer)
    run(port, State(model={"w": np.array([2.0])}), tasks=("train", "evaluate"), total=1)
    assert [ask.name for ask in port.asks] == ["train", "evaluate"]
    assert read_state(port.saved[0]).metrics == {"loss": 2.5, "accuracy": 4.0}


def test_without_a_model_the_first_sites_weights_start_the_run():
    def start(ask, site):
        return (
            Update(params={"w": np.array([TARGET[site]])}, samples=1) if not ask.model else train(ask, site)
        )

    port = FakePort(start)
    run(port, State(), total=2)
    assert read_state(port.saved[0]).model["w"].tolist() == [4.0]
    assert len(read_state(port.saved[1]).model) == 1


def test_a_site_that_is_absent_does_not_count():
    port = FakePort(lambda ask, site: "no power" if site == "a" else train(ask, site))
    run(port, State(model={"w": np.array([2.0])}), total=1)
    assert read_state(port.saved[0]).model["w"].tolist() == [5.0]


def start_state():
    return State(model={"w": np.float32([0.1, 2.0, 1e-3]), "n": np.array([5])})


def noisy(ask, site):
    source = np.random.default_rng([ask.round, ord(site)])
    w = (ask.model["w"] + source.standard_normal(3)).astype(np.float32)
    return Update(params={"w": w, "n": ask.model["n"] + ask.round}, samples=SAMPLES[site])


def uninterrupted():
    port = FakePort(noisy)
    run(port, start_state())
    return port


@pytest.mark.parametrize("die_at", range(uninterrupted().steps))
def test_killed_at_any_step_and_resumed_the_bits_are_the_same(die_at):
    killed = FakePort(noisy, die_at=die_at)
    with pytest.raises(Killed):
        run(killed, start_state())
    resumed = FakePort(noisy)
    run(resumed, read_state(killed.saved[-1]) if killed.saved else start_state())
    assert killed.saved + resumed.saved == uninterrupted().saved
