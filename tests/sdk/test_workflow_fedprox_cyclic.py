# SPDX-License-Identifier: Apache-2.0
"""FedProx and cyclic weight transfer on toy numbers; FedAvg's share of the sites."""

import numpy as np
import pytest
from ports import FakePort

from flprov.errors import JobFailed
from flprov.messages import Task, Update
from flprov.sdk import Correction, Sites, State, build_controller, read_state

TARGET = {"a": 0.0, "b": 8.0, "c": 4.0}


def run(kind, options, answer, *, names=("a", "b"), total=2, seed=0, state=None):
    port = FakePort(answer)
    sites = Sites(port, names=names, tasks=["train"], total=total, seed=seed)
    build_controller(kind, None, options).run(sites, state or State(model={"w": np.array([2.0])}))
    return port


def halfway(ask, site):
    w = ask.model["w"]
    return Update(params={"w": w + (TARGET[site] - w) / 2}, samples=10)


# ---- FedProx -----------------------------------------------------------------------------------


def proximal(ask, site):
    """Ten thousand small steps: the minimum of (w - target)²/2 + mu/2 (w - w(t))²."""
    task = Task(name="train", params=ask.model, round=0, rounds=1, job_id="j", scalars=ask.scalars)
    correction, w = Correction(task), {"w": ask.model["w"].copy()}
    for _ in range(2000):
        w["w"] -= 0.01 * correction.apply({"w": w["w"] - TARGET[site]}, w, lr=0.01)["w"]  # in place
    return Update(params=w, samples=10, metrics=correction.metrics)


@pytest.mark.parametrize("mu", [0.0, 1.0, 3.0])
def test_fedprox_holds_each_site_near_the_model_it_got(mu):
    # a's minimum from w: (0 + mu w)/(1 + mu), b's: (8 + mu w)/(1 + mu)
    expected = [(4 + mu * 2) / (1 + mu)]
    expected += [(4 + mu * expected[0]) / (1 + mu)]
    port = run("fedprox", {"mu": mu}, proximal)
    assert [read_state(data).model["w"][0] for data in port.saved] == pytest.approx(expected, abs=1e-6)
    assert [(ask.scalars, ask.requires) for ask in port.asks] == [({"mu": mu}, ("mu",))] * 2
    assert read_state(port.saved[0]).metrics == {}  # the sum of steps is SCAFFOLD's alone


def test_fedprox_whose_sites_do_not_train_further_is_fedavg():
    prox, plain = run("fedprox", {"mu": 0.5}, halfway), run("fedavg", {}, halfway)
    assert prox.saved == plain.saved


# ---- a share of the sites ----------------------------------------------------------------------


def test_a_fraction_of_the_sites_takes_part_and_it_follows_from_the_seed():
    def asked(seed):
        return [
            ask.to for ask in run("fedavg", {"fraction": 0.4}, halfway, names="abc", total=8, seed=seed).asks
        ]

    assert [len(to) for to in asked(1)] == [1] * 8  # max(1, 0.4 · 3)
    assert {to[0] for to in asked(1)} == {"a", "b", "c"}
    assert asked(1) == asked(1) != asked(2)


# ---- cyclic weight transfer --------------------------------------------------------------------


def test_the_model_goes_from_site_to_site():
    port = run("cyclic", {}, halfway, names=("c", "a", "b"), total=1)
    assert [ask.to for ask in port.asks] == [("a",), ("b",), ("c",)]
    assert [ask.model["w"].tolist() for ask in port.asks] == [[2.0], [1.0], [4.5]]
    assert read_state(port.saved[0]).model["w"].tolist() == [4.25]


def test_no_weight_counts():
    port = run("cyclic", {}, lambda ask, site: Update(params={"w": ask.model["w"] + 1}, samples=0), total=1)
    assert read_state(port.saved[0]).model["w"].tolist() == [4.0]


def test_a_random_order_is_another_one_in_each_round_and_the_same_in_each_run():
    def orders(seed):
        port = run("cyclic", {"order": "random"}, halfway, names="abc", total=6, seed=seed)
        turns = [ask.to[0] for ask in port.asks]
        return ["".join(turns[start : start + 3]) for start in range(0, 18, 3)]

    assert all(sorted(order) == ["a", "b", "c"] for order in orders(1))
    assert len(set(orders(1))) > 2
    assert orders(1) == orders(1) != orders(2)


def test_a_site_that_is_away_is_passed_over():
    port = run(
        "cyclic", {}, lambda ask, site: "gone" if site == "b" else halfway(ask, site), names="abc", total=1
    )
    assert read_state(port.saved[0]).model["w"].tolist() == [2.5]  # 2, a: 1, c: 2.5


def test_a_cycle_without_anybody_ends_the_job():
    with pytest.raises(JobFailed, match="no site answered"):
        run("cyclic", {}, lambda ask, site: "gone")


def test_without_a_model_the_first_site_begins():
    def begin(ask, site):
        return halfway(ask, site) if ask.model else Update(params={"w": np.array([6.0])})

    port = run("cyclic", {}, begin, total=1, state=State())
    assert read_state(port.saved[0]).model["w"].tolist() == [7.0]
