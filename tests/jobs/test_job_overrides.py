# SPDX-License-Identifier: Apache-2.0
"""--set KEY=VALUE."""

from __future__ import annotations

import pytest

from flprov.errors import ConfigError
from flprov.jobs import JobSpec, Membership, Workflow, override

SPEC = JobSpec(
    name="heart",
    tasks={"train": "train.py"},
    workflow=Workflow(type="fedprox", rounds=20, options={"mu": 0.1, "fast": True}),
    args={"epochs": 1, "lr": 0.01, "tag": "x", "layers": [1, 2], "deep": {"a": 1}, "none": None},
    sites=Membership(min=3),
)


@pytest.mark.parametrize(
    ("key", "text", "read", "expected"),
    [
        ("rounds", "3", lambda s: s.workflow.rounds, 3),
        ("workflow.rounds", "4", lambda s: s.workflow.rounds, 4),
        ("workflow.type", "fedavg", lambda s: s.workflow.type, "fedavg"),
        ("workflow.mu", "0.5", lambda s: s.workflow.options["mu"], 0.5),
        ("workflow.mu", "1", lambda s: s.workflow.options["mu"], 1.0),
        ("workflow.fast", "false", lambda s: s.workflow.options["fast"], False),
        ("args.lr", "1e-3", lambda s: s.args["lr"], 0.001),
        ("args.epochs", "7", lambda s: s.args["epochs"], 7),
        ("args.tag", "7", lambda s: s.args["tag"], "7"),
        ("args.tag", "", lambda s: s.args["tag"], ""),
        ("args.layers", "[3]", lambda s: s.args["layers"], [3]),
        ("args.deep", '{"b": 2}', lambda s: s.args["deep"], {"b": 2}),
        ("args.none", "5", lambda s: s.args["none"], 5),
        ("args.none", "word", lambda s: s.args["none"], "word"),
        ("sites.min", "2", lambda s: s.sites.min, 2),
        ("sites.required", "a, b", lambda s: s.sites.required, ("a", "b")),
        ("sites.required", "", lambda s: s.sites.required, ()),
        ("sites.absence", "1h", lambda s: s.sites.absence_seconds, 3600.0),
        ("sites.late", "refuse", lambda s: s.sites.late, "refuse"),
        ("sites.max_weight", "5000", lambda s: s.sites.max_weight, 5000.0),
        ("workflow.seed", "7", lambda s: s.workflow.seed, 7),
        ("workflow.best", "loss", lambda s: s.workflow.best, "loss"),
        ("workflow.mode", "min", lambda s: s.workflow.mode, "min"),
        ("workflow.min_delta", "1e-3", lambda s: s.workflow.min_delta, 0.001),
        ("priority", "-5", lambda s: s.priority, -5),
        ("resources.disk", "3GiB", lambda s: s.resources.disk, 3 << 30),
        ("resources.memory", "2GiB", lambda s: s.resources.memory, 2**31),
        ("resources.gpus", "1", lambda s: s.resources.gpus, 1),
        ("resources.grace", "500ms", lambda s: s.resources.grace_seconds, 0.5),
        ("data", "heart,lung", lambda s: s.data, ("heart", "lung")),
        ("name", "lung", lambda s: s.name, "lung"),
        ("model", "model:Net", lambda s: s.model, "model:Net"),
        ("tasks.train", "fit.py", lambda s: s.tasks["train"], "fit.py"),
    ],
)
def test_value_takes_the_type_of_what_is_there(key, text, read, expected):
    found = read(override(SPEC, {key: text}))
    assert found == expected
    assert type(found) is type(expected)


def test_the_rest_and_the_given_job_stay_as_they_are():
    before = override(SPEC, {})
    after = override(SPEC, {"args.lr": "0.5"})
    assert before == SPEC
    assert SPEC.args["lr"] == 0.01
    assert {**after.args, "lr": 0.01} == SPEC.args
    assert after.workflow == SPEC.workflow


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("round", "3", "did you mean 'rounds'?"),
        ("args.epoch", "3", "did you mean 'args.epochs'?"),
        ("args.new_one", "3", "this job has no 'args.new_one'"),
        ("workflow.muu", "3", "did you mean 'workflow.mu'?"),
        ("workflow.entry", "a:b", "this job has no 'workflow.entry'"),
        ("sites", "3", "this job has no 'sites'"),
        ("needs", "torch", "this job has no 'needs'"),
        ("filters.task", "x", "this job has no 'filters.task'"),
        ("__class__", "x", "this job has no '__class__'"),
        ("", "x", "this job has no ''"),
        ("rounds", "many", "must be a whole number"),
        ("rounds", "2.5", "must be a whole number"),
        ("rounds", "true", "must be a whole number"),
        ("rounds", "1_000", "must be a whole number"),
        ("rounds", "", "must be a whole number"),
        ("rounds", "0", "'workflow.rounds' must be between 1"),
        ("rounds", "9" * 400, "'workflow.rounds' must be between 1"),
        ("args.epochs", "2.5", "must be a whole number, as '1' in job.yml is"),
        ("args.lr", "fast", "must be a number"),
        ("args.lr", "NaN", "must be a number"),
        ("args.lr", "1e999", "must be a number"),
        ("args.lr", "9" * 400, "is too large a number"),
        ("args.layers", "3", "must be a JSON list"),
        ("args.layers", "[" * 5000, "must be a JSON list"),
        ("args.deep", "[1]", "must be a JSON object"),
        ("workflow.fast", "no", "must be true or false"),
        ("sites.absence", "10", "a duration is a number with a unit"),
        ("sites.late", "never", "must be take or refuse"),
        ("priority", "101", "must be between -100 and 100"),
        ("resources.memory", "lots", "a size is bytes or a number with a unit"),
        ("sites.required", "A", "'sites.required' must be the name of a site"),
        ("name", "../x", "'name' must be lower-case"),
        ("tasks.train", "../x.py", "climbs out of its folder"),
    ],
)
def test_what_job_yml_could_not_say_is_refused(key, text, expected):
    with pytest.raises(ConfigError) as caught:
        override(SPEC, {key: text})
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("--set")
    assert expected in caught.value.problems[0]


@pytest.mark.parametrize("key", ["workflow.rounds", "priority"])
def test_a_mistake_says_nothing_of_a_value_that_does_not_stand_in_job_yml(key):
    with pytest.raises(ConfigError) as caught:
        override(SPEC, {key: "abc"})
    assert caught.value.problems == [f"--set {key}=abc: must be a whole number"]


def test_all_mistakes_come_at_once():
    with pytest.raises(ConfigError) as caught:
        override(SPEC, {"round": "3", "args.lr": "x", "sites.min": "2"})
    assert len(caught.value.problems) == 2
