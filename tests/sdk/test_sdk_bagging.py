# SPDX-License-Identifier: Apache-2.0
"""XGBoost bagging: trees by hand, XGBoost itself as the oracle, and boosters that nobody should load."""

import json
import re
import time

import numpy as np
import pytest
from resuming import run_workflow, verify_resumes
from site_answers import bag_stumps, booster, send_booster, stump

from flprov.errors import JobFailed
from flprov.messages import Update, UpdateKind
from flprov.sdk import State, build_controller, read_state
from flprov.sdk.workflows.boosters import encode_booster, read_booster

WHERE = {"names": ["b", "a"], "tasks": ("train",), "total": 2}


def run(answer, options=None, **changes):
    return run_workflow(build_controller("xgboost_bagging", None, options or {}), answer, **(WHERE | changes))


def trees_of(port):
    data = read_state(port.saved[-1]).model["booster"].tobytes()
    return json.loads(data)["learner"]["gradient_booster"]["model"]


def test_the_trees_of_a_round_are_the_sites_trees_by_their_shares():
    model = trees_of(run(bag_stumps))
    leaves = [tree["split_conditions"][1:] for tree in model["trees"]]
    assert leaves == [[1.0, 2.0], [-3.0, 0.0]] * 2  # a has a quarter of the samples
    assert [tree["split_conditions"][0] for tree in model["trees"]] == [1.0] * 4  # a threshold is no leaf
    assert [tree["id"] for tree in model["trees"]] == [0, 1, 2, 3]
    assert model["iteration_indptr"] == [0, 2, 4]
    assert model["gbtree_model_param"]["num_trees"] == "4"


def test_the_sites_get_the_ensemble_so_far():
    port = run(bag_stumps)
    assert not port.asks[0].model
    assert len(read_booster(port.asks[1].model["booster"].tobytes()).trees) == 2


def test_bagging_killed_at_any_step_goes_on_with_the_same_bytes():
    verify_resumes(build_controller("xgboost_bagging", None, {}), bag_stumps, **WHERE)


def test_what_was_read_and_written_again_is_the_same_booster():
    data = encode_booster(read_booster(json.dumps(booster(stump(1.5, -2.5))).encode()))
    assert encode_booster(read_booster(data)) == data
    assert json.loads(data) == booster(stump(1.5, -2.5))


# ---- villains ----------------------------------------------------------------------------------


def broken(path, value):
    """A booster of one stump with something else at `path`."""
    document = booster(stump(1.0, 2.0))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


MODEL = ("learner", "gradient_booster", "model")
TREE = (*MODEL, "trees", 0)
HOSTILE = {
    "no JSON": (b"\x00\x01", "b is refused"),
    "a nest without end": (b"[" * 200_000, "nested too deep"),
    "NaN in a leaf": (
        json.dumps(broken((*TREE, "split_conditions"), [1.0, float("nan"), 1])).encode(),
        "NaN",
    ),
    "more than a float32": (broken((*TREE, "split_conditions"), [1.0, 1e39, 0.0]), "split_conditions"),
    "a child outside": (broken((*TREE, "left_children"), [7, -1, -1]), "left_children"),
    "a child before the first": (broken((*TREE, "left_children"), [-2, -1, -1]), "left_children"),
    "a child that is no number": (broken((*TREE, "left_children"), [True, -1, -1]), "left_children"),
    "a circle": (broken((*TREE, "left_children"), [1, 0, -1]), "node 1 of tree 0 has one child"),
    "a walk that never ends": (broken((*TREE, "left_children"), [0, -1, -1]), "node 0 of tree 0"),
    "two parents": (broken((*TREE, "right_children"), [1, -1, -1]), "node 1 of tree 0"),
    "another parent": (broken((*TREE, "parents"), [2**31 - 1, 2, 0]), "node 1 of tree 0"),
    "a feature outside": (broken((*TREE, "split_indices"), [2, 0, 0]), "split_indices"),
    "too few of something": (broken((*TREE, "default_left"), [0, 0]), "default_left"),
    "no nodes": (broken((*TREE, "left_children"), []), "right_children|default_left"),
    "categories": (broken((*TREE, "categories"), [1]), "categories"),
    "categories elsewhere": (broken((*MODEL, "cats"), {"enc": [1]}), "categories"),
    "other counts": (broken((*TREE, "tree_param", "num_nodes"), "9"), "tree_param"),
    "no tree_param": (broken((*TREE, "tree_param"), [1]), "tree_param"),
    "something unknown": (broken((*TREE, "__class__"), "os"), "'__class__', which is not known"),
    "a class outside": (broken((*MODEL, "tree_info"), [1]), "tree_info"),
    "rounds that lie": (broken((*MODEL, "iteration_indptr"), [0, 5]), "iteration_indptr"),
    "another kind": (broken(("learner", "gradient_booster", "name"), "dart"), "no gbtree"),
    "a score that is none": (
        broken(("learner", "learner_model_param", "base_score"), "1;import os"),
        "base_score",
    ),
    "a list for an object": (b"[]", "not an object"),
    "too many trees": (booster(stump(1.0, 1.0), stump(1.0, 1.0)), "sent 2 trees"),
    "no trees": (booster(), "sent 0 trees"),
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_booster_is_refused_and_leaves_no_trace(case):
    document, says = HOSTILE[case]

    def attack(ask, site):
        return send_booster(document) if site == "b" else bag_stumps(ask, site)

    port = run(attack)
    assert [(task, site) for task, site, _ in port.refused] == [("0/train/0", "b"), ("1/train/0", "b")]
    assert re.search(says, port.refused[0][2])
    assert "b " in port.refused[0][2]
    alone = run(lambda ask, site: "away" if site == "b" else bag_stumps(ask, site))
    assert port.saved == alone.saved


def test_where_no_booster_can_be_used_the_job_ends_and_says_why():
    with pytest.raises(JobFailed, match="no update of this round can be used: a sent 0 trees"):
        run(lambda ask, site: send_booster(booster()))


def test_sites_whose_parameters_are_not_those_of_most_are_refused():
    other = broken(("learner", "learner_model_param", "base_score"), "[4E-1]")
    port = run(
        lambda ask, site: send_booster(other) if site == "a" else bag_stumps(ask, site), names=["c", "b", "a"]
    )
    reason = "the booster of a has another learner_model_param than the ensemble"
    assert port.refused == [("0/train/0", "a", reason), ("1/train/0", "a", reason)]
    assert len(trees_of(port)["trees"]) == 4


def test_of_two_kinds_that_are_as_many_the_first_site_has_its_way():
    other = broken(("learner", "learner_model_param", "base_score"), "[4E-1]")
    port = run(lambda ask, site: send_booster(other) if site == "b" else bag_stumps(ask, site))
    assert {site for _, site, _ in port.refused} == {"b"}


def test_what_would_fill_the_memory_is_refused_before_it_is_read():
    began = time.monotonic()
    with pytest.raises(ValueError, match="more than 10000000 lists, objects and names"):
        read_booster(b"[" + b"[]," * (20 << 20) + b"[]]")
    assert time.monotonic() - began < 5  # reading it takes gigabytes and half a minute


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"trees": np.zeros(3, dtype=np.uint8)},
        {"booster": np.zeros(3)},
        {"booster": np.zeros(3, dtype=np.uint8), "more": np.zeros(3, dtype=np.uint8)},
        {"booster": np.zeros((3, 1), dtype=np.uint8)},
    ],
)
def test_other_tensors_are_refused(params):
    with pytest.raises(JobFailed, match="a sent something else than one uint8 tensor"):
        run(lambda ask, site: Update(params=params, kind=UpdateKind.OPAQUE, samples=1))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"w": np.zeros(2)}, "starts from is no ensemble of trees, which is one tensor 'booster'"),
        ({"booster": np.zeros(3, dtype=np.uint8)}, "the ensemble so far cannot be read"),
    ],
)
def test_a_model_to_start_from_that_is_no_ensemble_is_named(model, says):
    with pytest.raises(JobFailed, match=says):
        run(bag_stumps, state=State(model=model))


def test_an_ensemble_that_has_grown_too_large_to_be_read_ends_the_job(monkeypatch):
    monkeypatch.setattr("flprov.sdk.workflows.boosters.MOST_BYTES", 2000)
    with pytest.raises(JobFailed, match=r"the ensemble so far cannot be read: it has .* the limit is 2000"):
        run(bag_stumps, total=9)


def test_trees_without_samples_have_no_weight():
    with pytest.raises(JobFailed, match="total weight of 0"):
        run(lambda ask, site: send_booster(booster(stump(1.0, 1.0)), 0))


def test_more_trees_per_round_are_the_jobs_to_allow():
    def two(ask, site):
        return send_booster(booster(stump(1.0, 1.0), stump(2.0, 2.0)))

    assert len(trees_of(run(two, {"trees": 2}))["trees"]) == 8


# ---- XGBoost as the oracle ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def xgb():
    return pytest.importorskip("xgboost")


PARAMETERS = {"max_depth": 3, "eta": 0.3, "base_score": 0.5, "nthread": 1}


def boosting(xgb, data, parameters):
    """Sites that grow one round of trees on what they got."""

    def answer(ask, site):
        x, y = data[site]
        matrix = xgb.DMatrix(x, y)
        grown = xgb.Booster(parameters, [matrix])
        if ask.model:
            grown.load_model(bytearray(ask.model["booster"].tobytes()))
            grown.set_param(parameters)
        rounds = grown.num_boosted_rounds()
        grown.update(matrix, rounds)
        return send_booster(bytes(grown[rounds : rounds + 1].save_raw("json")), len(y))

    return answer


def table(seed, rows, classes=2):
    source = np.random.default_rng(seed)
    x = source.normal(size=(rows, 4))
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(int) + (classes > 2) * (x[:, 3] > 0.5)


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "binary:logistic"},
        {"objective": "multi:softprob", "num_class": 3},
        {"objective": "binary:logistic", "num_parallel_tree": 2},
    ],
)
def test_with_one_site_bagging_is_xgboost(xgb, parameters):
    parameters = PARAMETERS | parameters
    x, y = table(1, 200, parameters.get("num_class", 2))
    answer = boosting(xgb, {"a": (x, y)}, parameters)
    options = {"trees": parameters.get("num_parallel_tree", 1)}
    port = run(answer, options, names=["a"], total=6)
    model = bytearray(read_state(port.saved[-1]).model["booster"].tobytes())
    ours = xgb.Booster(model_file=model).predict(xgb.DMatrix(x))
    oracle = xgb.train(parameters, xgb.DMatrix(x, y), 6).predict(xgb.DMatrix(x))
    np.testing.assert_allclose(ours, oracle, rtol=1e-5)


def test_the_ensemble_predicts_the_weighted_sum_of_the_sites_trees(xgb):
    data = {"a": table(2, 120), "b": table(3, 40)}
    parameters = PARAMETERS | {"objective": "reg:squarederror"}
    port = run(boosting(xgb, data, parameters), total=1)
    model = bytearray(read_state(port.saved[-1]).model["booster"].tobytes())
    x, _ = table(4, 50)
    alone = [
        xgb.train(parameters, xgb.DMatrix(*data[site]), 1).predict(xgb.DMatrix(x)) for site in ("a", "b")
    ]
    expected = 0.5 + 0.75 * (alone[0] - 0.5) + 0.25 * (alone[1] - 0.5)
    np.testing.assert_allclose(xgb.Booster(model_file=model).predict(xgb.DMatrix(x)), expected, rtol=1e-5)


def test_bagged_trees_are_about_as_good_as_pooled_ones(xgb):
    metrics = pytest.importorskip("sklearn.metrics")
    data = {"a": table(5, 300), "b": table(6, 200)}
    parameters = PARAMETERS | {"objective": "binary:logistic"}
    port = run(boosting(xgb, data, parameters), total=15)
    x, y = table(7, 500)
    model = bytearray(read_state(port.saved[-1]).model["booster"].tobytes())
    pooled = xgb.DMatrix(*(np.concatenate(parts) for parts in zip(*data.values(), strict=True)))
    ours, oracle = (
        metrics.roc_auc_score(y, one.predict(xgb.DMatrix(x)))
        for one in (xgb.Booster(model_file=model), xgb.train(parameters, pooled, 15))
    )
    assert ours > oracle - 0.03 > 0.9
