# SPDX-License-Identifier: Apache-2.0
"""What holds for every workflow that flprov comes with: crashes, the order of arrival, hostile updates."""

import dataclasses

import numpy as np
import pytest
from ports import FakePort, Killed
from workflow_cases import CASES, CheckedPort, ShuffledPort

from flprov.errors import ConfigError, JobFailed
from flprov.messages import Update, UpdateKind
from flprov.sdk import WORKFLOWS, Sites, State, build_controller, read_state
from flprov.sdk.workflows.registry import DEMANDING

TRAINING = [case for case in CASES if case.trains]


def test_every_workflow_has_a_case():
    encrypted = {"fedavg_he"}  # its bits are others in each run: test_he_workflow.py
    assert {case.type for case in CASES} == set(WORKFLOWS) - encrypted


@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at_any_step_and_resumed_the_bits_are_the_same(case):
    whole = case.run(FakePort(case.answer))
    for die_at in range(whole.steps):
        killed, resumed = FakePort(case.answer, die_at=die_at), FakePort(case.answer)
        with pytest.raises(Killed):
            case.run(killed)
        case.run(resumed, read_state(killed.saved[-1]) if killed.saved else None)
        assert killed.saved + resumed.saved == whole.saved, die_at


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_order_of_arrival_does_not_show_in_the_bits(case):
    whole = case.run(FakePort(case.answer))
    for seed in range(4):
        assert case.run(ShuffledPort(case.answer, seed)).saved == whole.saved


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_best_round_is_in_the_state(case):
    states = [read_state(data) for data in case.run(FakePort(case.answer)).saved]
    if case.best is not None:
        best = min(states, key=lambda state: state.metrics[case.best])
        assert states[-1].best.value == best.metrics[case.best]
        assert states[-1].best.round == best.round - 1
        assert {k: v.tolist() for k, v in states[-1].best.model.items()} == {
            k: v.tolist() for k, v in best.model.items()
        }


def with_tensor(change):
    def spoil(update):
        name = min(update.params)
        return dataclasses.replace(update, params={**update.params, name: change(update.params[name])})

    return spoil


def poisoned(value):
    def change(array):
        array = array.copy()
        array.reshape(-1)[0] = value
        return array

    return with_tensor(change)


@pytest.mark.parametrize(
    ("type_", "options"), [("fedavg", {}), ("fedprox", {"mu": 0.1}), ("fedopt", {"optimizer": "sgd"})]
)
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ({"w": np.zeros(3)}, "a has no tensor 'w' of F64[2], which most sites have"),
        ({"w": np.zeros(2), "x": np.int64(1)}, "a has a tensor 'x' of I64[], which most sites have not"),
    ],
)
def test_without_a_model_the_weights_of_most_sites_start_the_run(type_, options, odd, says):
    def answer(ask, site):
        start = {"w": np.full(2, {"b": 1.0, "c": 3.0}.get(site, 9.0))}
        return Update(params=odd if site == "a" else start, samples=1)

    port = FakePort(answer)
    sites = Sites(port, names=["c", "b", "a"], tasks=["train"], total=1)
    build_controller(type_, None, options).run(sites, State())
    assert port.refused == [("0/train/0", "a", says)]
    assert read_state(port.saved[0]).model["w"].tolist() == [2.0, 2.0]


VILLAINS = {
    "NaN": poisoned(np.nan),
    "infinity": poisoned(np.inf),
    "shape": with_tensor(lambda array: array[:1]),
    "dtype": with_tensor(lambda array: array.astype(np.float64)),
    "missing": lambda update: dataclasses.replace(
        update, params={n: a for n, a in update.params.items() if n != min(update.params)}
    ),
    "stray": lambda update: dataclasses.replace(update, params={**update.params, "more": np.zeros(1)}),
    "opaque": lambda update: dataclasses.replace(update, kind=UpdateKind.OPAQUE),
    "no-tensors": lambda update: dataclasses.replace(update, params={}),
    "samples": lambda update: dataclasses.replace(update, samples=2**53 + 1),
    "negative-samples": lambda update: dataclasses.replace(update, samples=-1),
    "negative-weight": lambda update: dataclasses.replace(update, weight=-1.0),
    "weight": lambda update: dataclasses.replace(update, weight=1e300),
    "infinite-weight": lambda update: dataclasses.replace(update, weight=np.inf),
    "NaN-metric": lambda update: dataclasses.replace(update, metrics={"loss": np.nan}),
}


@pytest.mark.parametrize("villain", VILLAINS)
@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_a_bad_update_is_refused_and_leaves_no_trace(case, villain):
    def attack(ask, site):
        update = case.answer(ask, site)
        return VILLAINS[villain](update) if (site, ask.name) == ("c", "train") else update

    def absent(ask, site):
        return "refused" if (site, ask.name) == ("c", "train") else case.answer(ask, site)

    attacked = case.run(CheckedPort(attack))
    assert attacked.refusals
    assert attacked.saved == case.run(FakePort(absent)).saved


@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_where_every_update_is_refused_the_job_ends_and_says_why(case):
    def attack(ask, site):
        update = case.answer(ask, site)
        return VILLAINS["NaN"](update) if ask.name == "train" else update

    port = CheckedPort(attack)
    with pytest.raises(JobFailed, match=r"no site answered task 'train' of round 0.*a: .*NaN or infinity"):
        case.run(port)
    assert not port.saved


@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_updates_without_samples_end_the_job_where_samples_count(case):
    def attack(ask, site):
        return dataclasses.replace(case.answer(ask, site), samples=0)

    if case.type == "cyclic" or (case.type == "scaffold" and "weighted" not in case.options):
        assert case.run(FakePort(attack)).saved  # every site counts the same there
    else:
        with pytest.raises(JobFailed, match="total weight of 0"):
            case.run(FakePort(attack))


@pytest.mark.parametrize(
    ("type_", "options", "problem"),
    [
        ("fedporx", {}, r"workflow.type: no workflow 'fedporx' .did you mean 'fedprox'"),
        ("fedprox", {}, "workflow.mu is missing"),
        ("fedprox", {"mu": -1.0}, "workflow.mu is -1.0; it must not be negative"),
        ("fedavg", {"fractoin": 0.5}, "workflow: unknown option 'fractoin' .did you mean 'fraction'"),
        ("fedavg", {"fraction": 0.0}, "workflow.fraction is 0.0"),
        ("fedprox", {"mu": 0.1, "fraction": 1.5}, "workflow.fraction is 1.5"),
        ("fedopt", {"fraction": -0.5}, "workflow.fraction is -0.5"),
        ("fedavg_he", {"fraction": 0.0}, "workflow.fraction is 0.0"),
        ("fedavg_he", {"samples": -5}, "workflow.samples is -5; it must not be negative"),
        ("scaffold", {"fraction": 2.0}, "workflow.fraction is 2.0"),
        ("fedopt", {"optimizer": "adma"}, "'adma' is not one of sgd, adam, yogi, adagrad"),
        (
            "fedopt",
            {"optimizer": "adam", "momentum": 0.9},
            "momentum: adam has no such option; it has lr, beta1",
        ),
        ("fedopt", {"beta1": 0.9}, "workflow.beta1: sgd has no such option; it has lr, momentum"),
        ("fedopt", {"lr": 0.0}, "workflow.lr is 0.0; it must be above 0"),
        ("fedopt", {"momentum": 1.0}, "workflow.momentum is 1.0; it must be at least 0 and below 1"),
        ("scaffold", {"lr": "fast"}, "workflow.lr"),
        ("scaffold", {"lr": -1.0}, "workflow.lr is -1.0; it must be above 0"),
        ("cyclic", {"order": "sorted"}, "'sorted' is not one of fixed, random"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(type_, options, problem):
    with pytest.raises(ConfigError, match=problem):
        build_controller(type_, None, options)


@pytest.mark.parametrize("type_", WORKFLOWS)
def test_what_takes_no_options_need_not_be_loaded_to_see_that(type_):
    try:
        build_controller(type_, None, {})
    except ConfigError:
        assert type_ in DEMANDING
    else:
        assert type_ not in DEMANDING
