# SPDX-License-Identifier: Apache-2.0
"""Federated and cross-site evaluation on numbers that fit on a hand."""

from dataclasses import replace

import numpy as np
import pytest
from resuming import run_workflow, verify_resumes
from workflow_cases import CheckedPort

from flprov.errors import ConfigError, JobFailed, NotFound, UpdateRefused
from flprov.messages import Update, UpdateKind
from flprov.sdk import Sites, State, build_controller, read_state

SAMPLES = {"a": 1, "b": 3, "c": 4}
OWN = {"a": 10.0, "b": 20.0, "c": 30.0}
NAMES = ("c", "a", "b")
MODEL = State(model={"w": np.array([2.0])})


def answer(ask, site):
    """A site's own model is its number; its error of a model is how far that is from the number."""
    w = ask.model["w"] if ask.model else np.zeros(1)
    if ask.name == "evaluate":
        return Update(samples=SAMPLES[site], metrics={"error": abs(float(w[0]) - OWN[site])})
    if site == "b":
        return Update(params={"w": OWN[site] - w}, kind=UpdateKind.DIFF, samples=0)
    return Update(params={"w": np.array([OWN[site]])}, samples=5)


def last(port):
    return read_state(port.saved[-1])


def evaluation(port):
    return last(port).results["evaluation.json"]


def matrix(port):
    return last(port).results["cross_site.json"]


# ---- federated evaluation ----------------------------------------------------------------------


def federated(given=answer, **changes):
    where = {"names": NAMES, "tasks": ("evaluate",), "state": MODEL} | changes
    return run_workflow(build_controller("federated_evaluation", None, {}), given, **where)


def test_the_mean_is_weighted_by_samples_and_every_site_has_a_row():
    port = federated()
    # errors 8, 18 and 28 of 1, 3 and 4 samples: (8 + 54 + 112) / 8
    assert evaluation(port) == {
        "mean": {"error": 21.75},
        "samples": 8,
        "sites": {
            "a": {"samples": 1, "metrics": {"error": 8.0}},
            "b": {"samples": 3, "metrics": {"error": 18.0}},
            "c": {"samples": 4, "metrics": {"error": 28.0}},
        },
        "absent": {},
    }
    assert last(port).metrics == {"error": 21.75}


def test_the_model_is_measured_once_whatever_rounds_says():
    port = federated(total=7)
    assert [(ask.name, ask.rounds) for ask in port.asks] == [("evaluate", 1)]
    assert len(port.saved) == 1


def test_a_site_that_does_not_measure_is_named_with_its_reason():
    port = federated(lambda ask, site: "no data" if site == "a" else answer(ask, site))
    assert evaluation(port)["absent"] == {"a": "no data"}
    assert evaluation(port)["samples"] == 7


def test_without_a_model_there_is_nothing_to_measure():
    with pytest.raises(JobFailed, match="no model to evaluate"):
        federated(state=State())


def test_a_killed_evaluation_is_resumed_with_the_same_result():
    workflow = build_controller("federated_evaluation", None, {})
    verify_resumes(workflow, answer, names=NAMES, tasks=("evaluate",), state=MODEL)


# ---- cross-site evaluation ---------------------------------------------------------------------


def cross(given=answer, options=None, **changes):
    where = {"names": NAMES, "tasks": ("train", "evaluate"), "state": MODEL} | changes
    return run_workflow(build_controller("cross_site_evaluation", None, options or {}), given, **where)


def errors(row):
    return {site: cell["metrics"]["error"] for site, cell in row.items()}


def test_every_model_is_measured_at_every_site():
    port = cross()
    found = matrix(port)
    assert {site: errors(row) for site, row in found["models"].items()} == {
        "a": {"a": 0.0, "b": 10.0, "c": 20.0},
        "b": {"a": 10.0, "b": 0.0, "c": 10.0},  # it sent a difference
        "c": {"a": 20.0, "b": 10.0, "c": 0.0},
    }
    assert errors(found["global"]) == {"a": 8.0, "b": 18.0, "c": 28.0}
    assert (found["declined"], found["absent"]) == ({}, {})
    assert last(port).metrics == {"error": 21.75}
    assert [ask.name for ask in port.asks] == ["train", *["evaluate"] * 4]


def test_models_are_not_kept_beyond_the_matrix():
    port = cross()
    assert set(read_state(port.saved[0]).tensors) == {"a/w", "b/w", "c/w"}
    assert not last(port).tensors
    assert last(port).model["w"].tolist() == [2.0]


def test_a_task_submit_model_is_preferred_to_training():
    port = cross(tasks=("train", "submit_model", "evaluate"))
    assert port.asks[0].name == "submit_model"


def test_a_site_that_declines_is_listed_and_still_measures():
    port = cross(
        lambda ask, site: "ours stays here" if (ask.name, site) == ("train", "c") else answer(ask, site)
    )
    found = matrix(port)
    assert found["declined"] == {"c": "ours stays here"}
    assert set(found["models"]) == {"a", "b"}
    assert set(found["models"]["a"]) == {"a", "b", "c"}


def test_a_site_that_the_job_calls_private_is_not_asked():
    port = cross(options={"private": "b, c"})
    assert port.asks[0].to == ("a",)
    assert matrix(port)["declined"] == dict.fromkeys(("b", "c"), "the job does not ask for it")


def test_a_stranger_among_the_private_is_a_mistake():
    with pytest.raises(ConfigError, match=r"workflow\.private names 'd'"):
        cross(options={"private": "d"})


def test_without_any_model_it_says_why():
    with pytest.raises(JobFailed, match="a: no; b: no; c: no"):
        cross(lambda ask, site: "no", state=State())


def test_only_the_jobs_model_is_left_when_all_decline():
    port = cross(lambda ask, site: "no" if ask.name == "train" else answer(ask, site))
    assert matrix(port)["models"] == {}
    assert set(matrix(port)["global"]) == {"a", "b", "c"}


def test_models_need_not_have_the_same_shape_when_the_job_has_none():
    def grow(ask, site):
        if ask.name == "train":
            return Update(params={"w": np.full(2 if site == "a" else 3, OWN[site])}, samples=1)
        return answer(ask, site)

    found = matrix(cross(grow, state=State()))
    assert "global" not in found
    assert errors(found["models"]["c"]) == {"a": 20.0, "b": 10.0, "c": 0.0}


def test_a_site_that_cannot_measure_a_model_leaves_a_hole():
    def strict(ask, site):
        stuck = ask.name == "evaluate" and site == "a" and ask.model["w"][0] == OWN["c"]
        return "it does not load" if stuck else answer(ask, site)

    found = matrix(cross(strict))
    assert set(found["models"]["c"]) == {"b", "c"}
    assert found["absent"] == {"c": {"a": "it does not load"}}


def test_without_a_task_that_measures_the_job_says_so():
    with pytest.raises(NotFound, match="'evaluate'"):
        cross(tasks=("train",))


def test_a_difference_of_another_shape_is_refused():
    def wrong(ask, site):
        if ask.name == "train" and site == "a":
            return Update(params={"w": np.zeros(2)}, kind=UpdateKind.DIFF, samples=1)
        return answer(ask, site)

    with pytest.raises(UpdateRefused, match="tensor 'w' of a"):
        cross(wrong)


def test_a_killed_matrix_is_resumed_with_the_same_result():
    workflow = build_controller("cross_site_evaluation", None, {"private": "c"})
    verify_resumes(workflow, answer, names=NAMES, tasks=("train", "evaluate"), state=MODEL)


def test_a_model_that_the_checks_refuse_reaches_nobody():
    def poison(ask, site):
        update = answer(ask, site)
        return (
            replace(update, params={"w": np.array([np.nan])})
            if (ask.name, site) == ("train", "a")
            else update
        )

    port = CheckedPort(poison)
    sites = Sites(port, names=NAMES, tasks=("train", "evaluate"), total=2)
    build_controller("cross_site_evaluation", None, {}).run(sites, MODEL)
    assert matrix(port)["declined"] == {"a": "tensor 'w' holds NaN or infinity"}
    assert set(matrix(port)["models"]) == {"b", "c"}
