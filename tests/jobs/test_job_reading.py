# SPDX-License-Identifier: Apache-2.0
"""job.yml: defaults, every key, every mistake with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import ConfigError, FlprovError, NotFound
from flprov.jobs import Filters, JobSpec, Membership, Resources, Workflow, load_job, verify_spec
from flprov.jobs.reading import read_job

FILES = frozenset({"job.yml", "train.py", "model.py", "pkg/__init__.py", "pkg/deep.py", "start.safetensors"})


def read(text: str, files=FILES) -> JobSpec:
    return read_job(Path("job.yml"), files, text=text.encode())


def problems(text: str, files=FILES) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, files)
    return caught.value.problems


def problems_of(line: str, minimal: str = "name: a\ntasks: train.py\n") -> list[str]:
    """The problems of a sound job to which `line` is added, without their `job.yml:3: `."""
    found = problems(minimal + line)
    start = minimal.count("\n") + 1
    assert all(problem.startswith(f"job.yml:{start}: ") for problem in found), found
    return [problem.split(": ", 1)[1] for problem in found]


def test_every_key_of_the_design_sample_is_read(make_app):
    assert load_job(make_app()) == JobSpec(
        name="heart",
        workflow=Workflow(type="fedavg", rounds=20),
        model="model:Net",
        tasks={"train": "train.py", "evaluate": "train:evaluate"},
        args={"epochs": 1, "lr": 0.01},
        data=("heart",),
        needs=("torch>=2.4",),
        sites=Membership(min=2, required=(), absence_seconds=600.0),
        resources=Resources(gpus=0, gpu_memory=0, cpus=1, memory=1 << 30, grace_seconds=1.0),
        filters=Filters(result_site=({"type": "clip_norm", "max_norm": 1.0},)),
    )


def test_two_lines_are_a_job_and_the_rest_has_defaults():
    spec = read("name: tiny\ntasks: train.py\n")
    assert spec == JobSpec(name="tiny", tasks={"train": "train.py"})
    assert (spec.workflow.type, spec.workflow.rounds, spec.sites.min) == ("fedavg", 5, None)
    assert spec.sites.absence_seconds == 600.0
    assert spec.resources == Resources(gpus=0, gpu_memory=0, cpus=1, memory=2**30, grace_seconds=1.0)


def test_quorum_is_min_or_every_site():
    spec = JobSpec(name="a", tasks={"train": "train.py"})
    assert spec.quorum(7) == 7
    assert JobSpec(name="a", tasks={}, sites=Membership(min=2)).quorum(7) == 2


def test_spec_survives_json():
    spec = read("name: a\ntasks: train.py\nargs: {deep: [1, {a: null}], flag: true, x: 1.5}\n")
    assert from_document(JobSpec, parse_json(canonical_json(spec))) == spec


def test_unknown_workflow_keys_are_options():
    spec = read("name: a\ntasks: train.py\nworkflow: {type: fedprox, mu: 0.1, fast: true, rounds: 3}\n")
    assert spec.workflow == Workflow(type="fedprox", rounds=3, options={"mu": 0.1, "fast": True})


def test_own_workflow_has_an_entry_and_no_type():
    spec = read('name: a\ntasks: train.py\nworkflow: {entry: "pkg.deep:Mine", mu: 1}\n')
    assert spec.workflow == Workflow(type=None, entry="pkg.deep:Mine", rounds=5, options={"mu": 1})


@pytest.mark.parametrize(
    "code",
    ["train.py", "train:run", "pkg:Run", "pkg.deep:Run", "flprov.flare.app:Trainer", "torch.nn:Linear"],
)
def test_code_in_the_app_in_flprov_or_in_a_needed_package_is_accepted(code):
    spec = read(f'name: a\ntasks: {{train: "{code}"}}\nneeds: [torch]\n')
    assert spec.tasks == {"train": code}


def test_model_may_be_a_file_of_weights():
    assert read("name: a\ntasks: train.py\nmodel: start.safetensors\n").model == "start.safetensors"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nmae: x", "unknown key 'nmae'"),
        ("model: Net", "'model' must be module:callable or a .safetensors file, not 'Net'"),
        ("model: other:Net", "'model' names the module 'other': no other.py in the app"),
        ("model: none.safetensors", "'model' names 'none.safetensors', which is not in the app"),
        ("model: ../a.safetensors", "climbs out of its folder"),
        ("model: /etc/a.safetensors", "is an absolute path"),
        ("workflow: {rounds: 0}", "'workflow.rounds' must be between 1 and 1,000,000, not 0"),
        ("workflow: {type: fedavg, entry: train:X}", "either 'type' (one of ours) or 'entry'"),
        ("workflow: {type: Fed Avg}", "'workflow.type' must be lower-case"),
        ("workflow: {entry: train}", "'workflow.entry' must be module:attribute"),
        ("workflow: {mu: [1]}", "'workflow.mu' must be a single value"),
        ("workflow: {mu: null}", "'workflow.mu' must be a single value"),
        ("workflow: fedavg", "'workflow' must be a mapping"),
        ("args: {2x: 1}", "'args.2x' is no name for a parameter"),
        ("args: {class: 1}", "'args.class' is no name for a parameter"),
        ("args: {a-b: 1}", "'args.a-b' is no name for a parameter"),
        ("args: {a: [[[[[[[[[1]]]]]]]]]}", "'args.a' is nested too deep"),
        ("data: [Heart Data]", "'data' must be lower-case"),
        ("data: [../etc]", "'data' must be lower-case"),
        ("data: [a, a]", "'data' names 'a' twice"),
        ('needs: ["torch>>2"]', "'needs' must be a requirement as pip takes it (torch>=2.4), not 'torch>>2'"),
        ('workflow: {best: ""}', "'workflow.best' is empty; it must be the name of a metric"),
        ("needs: [\"a; os_name ~= 'posix'\"]", "'needs' has a condition that nobody can decide"),
        ('needs: ["a @ https://x.example/a.whl"]', "names a place to download from"),
        ("sites: {min: 0}", "'sites.min' must be between 1 and 10,000, not 0"),
        ("sites: {required: [A]}", "'sites.required' must be the name of a site, not 'A'"),
        ("sites: {absence: 366d}", "'sites.absence' must be between 0 and 31,536,000 seconds"),
        ("sites: {late: maybe}", "'sites.late' must be take or refuse, not 'maybe'"),
        ("sites: {late: true}", "'late'"),
        ("priority: 101", "'priority' must be between -100 and 100, not 101"),
        ("priority: high", "'priority'"),
        ("resources: {disk: -1}", "'disk' is wrong: a size is bytes"),
        ("resources: {cpus: 0}", "'resources.cpus' must be between 1 and 65,536, not 0"),
        ("resources: {gpus: -1}", "'resources.gpus' must be between 0 and 1,024, not -1"),
        ("resources: {memory: 5}", "'resources.memory' must be between 1,048,576 and"),
        ("resources: {gpu_memory: 1GiB}", "asks for memory on a GPU, but 'resources.gpus' is 0"),
        ("resources: {grace: 2h}", "'resources.grace' must be between 0 and 3,600 seconds, not 7,200.0"),
        ("filters: {task: {server: [{max: 1}]}}", "'filters.task.server.0.type' must name a filter"),
        ("filters: {task: {server: [{type: gone:F}]}}", "names the module 'gone'"),
        ("filters: {result: {site: [{type: X}]}}", "'filters.result.site.0.type' must be lower-case"),
        ("filters: {result: {site: [{type: x, a b: 1}]}}", "'filters.result.site.0.a b' is no name"),
        ("filters: {task: {server: [clip]}}", "must be a mapping"),
        ("filters: {tasks: {}}", "unknown key 'tasks' (did you mean 'task'?)"),
    ],
)
def test_one_mistake_is_one_problem_with_its_line(line, expected):
    found = problems_of(line + "\n")
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize("name", ["Heart", "-rf", "../x", "a b", "", "con\u202e", "a" * 64, "х"])
def test_hostile_names_are_refused(name):
    found = problems(f'name: "{name}"\ntasks: train.py\n')
    assert len(found) == 1
    assert found[0].startswith("job.yml:1: ")


@pytest.mark.parametrize(
    "tasks",
    [
        "{train: ../evil.py}",
        "{train: /etc/passwd.py}",
        "{train: 'a\\b.py'}",
        "{train: .hidden.py}",
        "{train: missing.py}",
        "{train: train}",
        "{train: 'train:'}",
        "{train: ':run'}",
        "{train: 'train:run:x'}",
        "{train: 'os;x:run'}",
        "{train: 'train:def'}",
        "{train: 'subprocess:run'}",
        "{train: 5}",
        "{TRAIN: train.py}",
        "{}",
        "",
        "[train.py]",
        "7",
    ],
)
def test_bad_tasks_are_one_problem_at_their_line(tasks):
    found = problems(f"name: a\n\ntasks: {tasks}\n")
    assert len(found) == 1, found
    assert found[0].startswith("job.yml:3: ")


def test_a_module_whose_path_no_file_system_takes_is_not_in_the_app(make_app):
    module = ".".join(["a" * 199] * 20 + ["b" * 88])
    with pytest.raises(ConfigError, match=r"'tasks\.train' names the module"):
        load_job(make_app(f"name: a\ntasks: {{train: '{module}:f'}}\n"))


def test_missing_keys_are_named():
    assert [line.split(": ", 1)[1] for line in problems("model: model:Net\n")] == [
        "key 'name' is missing",
        "key 'tasks' is missing",
    ]


def test_all_problems_come_at_once_in_order_of_lines():
    found = problems(
        "name: A\n"
        "tasks:\n  train: train.py\n  evaluate: 7\n"
        "needs:\n  - torch\n  - '>=1'\n"
        "sites: {min: two}\n"
        "worklfow: {}\n"
    )
    assert [line.split(":")[1] for line in found] == ["1", "4", "7", "8", "9"]
    assert "did you mean 'workflow'?" in found[-1]


@pytest.mark.parametrize("value", ["no", "12:30:45", "1_000", "017", ".inf", "!!python/object:os.system x"])
def test_surprising_scalars_are_mistakes_not_guesses(value):
    found = problems(f"name: a\ntasks: train.py\nargs: {{x: {value}}}\n")
    assert found[0].startswith("job.yml:3: ")


def test_huge_numbers_are_refused():
    assert problems(f"name: a\ntasks: train.py\nargs: {{x: {10**30}}}\n")


def test_a_folder_without_a_job_is_not_found(tmp_path):
    with pytest.raises(NotFound, match=r"has no job\.yml"):
        load_job(tmp_path)
    with pytest.raises(NotFound, match="is not a folder"):
        load_job(tmp_path / "nowhere")


def test_files_are_looked_up_in_the_folder(make_app):
    with pytest.raises(ConfigError, match=r"job\.yml:2: 'tasks\.train' names 'fit\.py'"):
        load_job(make_app("name: a\ntasks: fit.py\n"))


def test_a_pipe_as_job_file_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "job.yml")
    with pytest.raises(FlprovError):
        load_job(tmp_path)


def test_values_off_the_wire_keep_the_same_rules():
    spec = JobSpec(
        name="a",
        tasks={"train": "../x.py"},
        args={"lr": float("nan"), "n": 2**70},
        workflow=Workflow(rounds=2**70),
        sites=Membership(absence_seconds=float("nan")),
    )
    with pytest.raises(ConfigError) as caught:
        verify_spec(spec)
    assert len(caught.value.problems) == 5
    assert verify_spec(JobSpec(name="a", tasks={"train": "x.py"})).name == "a"


def test_too_many_of_anything_is_refused():
    many = {f"a{n}": 1 for n in range(300)}
    sites = tuple(f"s{n}" for n in range(10_001))
    spec = JobSpec(
        name="a",
        tasks={f"t{n}": "x.py" for n in range(300)},
        args=many | {"long": "x" * 5000, "wide": list(range(300))},
        needs=("torch",) * 300,
        sites=Membership(required=sites),
        filters=Filters(task_site=({"type": "x"},) * 300),
    )
    with pytest.raises(ConfigError) as caught:
        verify_spec(spec)
    assert len(caught.value.problems) == 7
