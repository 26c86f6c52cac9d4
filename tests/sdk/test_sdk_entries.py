# SPDX-License-Identifier: Apache-2.0
"""Entry points, models, workflows and functions that an app names in job.yml."""

from pathlib import Path

import numpy as np
import pytest

from flprov.errors import ConfigError, JobFailed, Misuse, ProtocolError
from flprov.messages import Site, Task, Update
from flprov.sdk import FedAvg, build_controller, build_executor, load_entry, load_model, run_executor
from flprov.wire import write_tensors

SITE = Site(name="a", job_id="j", folder=Path())
TASK = Task(name="train", params={}, round=0, rounds=1, job_id="j")

CODE = """
import random
import numpy as np
from flprov.sdk import Update

VALUE = 3
def plain():
    return {"w": np.ones(2), "n": 3, "l": [1.0, 2.0]}
def chance():
    return {"w": np.random.rand(4), "p": random.random()}
def torch_net():
    import torch
    return torch.nn.Linear(2, 1)
def wrong():
    return 7
def ragged():
    return {"w": [[1], [1, 2]]}
def two(task, site):
    return Update(samples=1)
def more(task, site, lr, epochs=1):
    return Update(samples=epochs, metrics={"lr": lr})
def ordered(task, site, /, lr):
    return Update(metrics={"lr": lr})
def starred(*given, lr):
    return Update(metrics={"lr": lr})
def half(task, *, site):
    return Update()
def everything(task, site, **args):
    return Update(metrics={name: float(value) for name, value in args.items()})
def nothing(task, site):
    pass
def one(task):
    return Update()
class Trainer:
    def __init__(self, epochs, lr=0.5):
        self.epochs, self.calls = epochs, 0
    def __call__(self, task, site):
        self.calls += 1
        return Update(samples=self.epochs, metrics={"calls": self.calls})
class Idle:
    pass
class MyController:
    def __init__(self, *, momentum: float = 0.9, names: tuple[str, ...] = ()):
        self.momentum = momentum
    def run(self, sites, state):
        pass
"""


@pytest.fixture(autouse=True)
def app(tmp_path, monkeypatch):
    name = f"code_{abs(hash(tmp_path))}"  # modules stay imported; each test has its own
    (tmp_path / f"{name}.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    return lambda attribute: f"{name}:{attribute}"


# ---- entries -----------------------------------------------------------------------------


def test_an_entry_is_found(app):
    assert load_entry(app("VALUE"), "model") == 3


@pytest.mark.parametrize("text", ["", "module", "a:b:c", "../x:y", "a/b:c", "os:", ":x", "a b:c", "a:b.c"])
def test_what_is_no_entry_is_refused(text):
    with pytest.raises(ConfigError, match="module:attribute"):
        load_entry(text, "model")


def test_a_missing_module_and_a_missing_attribute_are_named(app):
    with pytest.raises(ConfigError, match=r"tasks.train: no module 'trian' in the app"):
        load_entry("trian:f", "tasks.train")
    with pytest.raises(ConfigError, match=r"no 'plian' in .*did you mean 'plain'"):
        load_entry(app("plian"), "model")


def test_what_a_module_fails_to_import_is_not_taken_for_the_module(app):
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        load_entry("broken:f", "model")


# ---- models ------------------------------------------------------------------------------


def test_a_callable_gives_arrays_numbers_or_lists(app, tmp_path):
    model, form = load_model(app("plain"), tmp_path)
    assert {name: array.tolist() for name, array in model.items()} == {"w": [1, 1], "n": 3, "l": [1, 2]}
    assert form == ""


def test_a_torch_module_gives_its_state_dict(app, tmp_path):
    model, form = load_model(app("torch_net"), tmp_path)
    assert {name: array.shape for name, array in model.items()} == {"weight": (1, 2), "bias": (1,)}
    assert form == "pt"


@pytest.mark.parametrize("maker", ["chance", "torch_net"])
def test_random_weights_are_the_same_in_every_start(app, tmp_path, maker):
    first, second = (load_model(app(maker), tmp_path)[0] for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_file_of_the_app_gives_its_tensors(tmp_path):
    write_tensors(tmp_path / "start.safetensors", {"w": np.ones(2)}, {"format": "pt"})
    model, form = load_model("start.safetensors", tmp_path)
    assert model["w"].tolist() == [1, 1]
    assert form == "pt"


@pytest.mark.parametrize("name", ["gone.safetensors", "../out.safetensors", "/etc/x.safetensors"])
def test_a_file_must_be_in_the_app(tmp_path, name):
    app = tmp_path / "app"
    app.mkdir()
    write_tensors(tmp_path / "out.safetensors", {})
    with pytest.raises(ConfigError, match="no file"):
        load_model(name, app)


def test_a_file_that_is_no_tensor_file_is_refused(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"\x80\x04pickle.....")
    with pytest.raises(ProtocolError):
        load_model("m.safetensors", tmp_path)


@pytest.mark.parametrize(
    ("name", "error"), [("wrong", ConfigError), ("VALUE", ConfigError), ("ragged", Misuse)]
)
def test_a_model_of_another_kind_is_refused(app, tmp_path, name, error):
    with pytest.raises(error):
        load_model(app(name), tmp_path)


# ---- workflows ---------------------------------------------------------------------------


def test_fedavg_is_known():
    assert build_controller("fedavg", None, {}) == FedAvg()


def test_an_unknown_workflow_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no workflow 'fedvag' .did you mean 'fedavg'"):
        build_controller("fedvag", None, {})


def test_options_that_a_workflow_does_not_take_are_refused(app):
    with pytest.raises(ConfigError, match="workflow: unknown option 'momentum'"):
        build_controller("fedavg", None, {"momentum": 0.9})
    with pytest.raises(ConfigError, match=r"unknown option 'momentun'.*'momentum'"):
        build_controller(None, app("MyController"), {"momentun": 0.9})
    with pytest.raises(ConfigError, match="momentum: expected float"):
        build_controller(None, app("MyController"), {"momentum": "much"})


def test_an_apps_own_workflow_gets_its_options(app):
    assert build_controller(None, app("MyController"), {"momentum": 1}).momentum == 1.0


@pytest.mark.parametrize("name", ["Idle", "VALUE"])
def test_a_workflow_needs_run(app, name):
    with pytest.raises(ConfigError):
        build_controller(None, app(name), {})


# ---- functions ---------------------------------------------------------------------------

ARGS = {"epochs": 4, "lr": 0.25}


def call(app, name, args=ARGS):
    executor = build_executor(load_entry(app(name), "tasks.train"), args, "tasks.train")
    return run_executor(executor, TASK, SITE, name)


def test_a_function_gets_the_args_that_it_names(app):
    assert call(app, "two").samples == 1
    assert call(app, "more") == Update(samples=4, metrics={"lr": 0.25})
    assert call(app, "ordered").metrics == call(app, "starred").metrics == {"lr": 0.25}
    assert call(app, "everything").metrics == {"epochs": 4.0, "lr": 0.25}


def test_an_argument_that_job_yml_does_not_give_is_named(app):
    with pytest.raises(ConfigError, match=r"tasks.train needs 'lr'"):
        call(app, "more", {"epochs": 4})


def test_a_class_is_made_once_and_called_for_each_task(app):
    executor = build_executor(load_entry(app("Trainer"), "tasks.train"), ARGS, "tasks.train")
    assert [run_executor(executor, TASK, SITE, "t").metrics["calls"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("name", ["one", "half", "Idle", "VALUE"])
def test_what_cannot_be_called_with_task_and_site_is_refused_at_the_start(app, name):
    with pytest.raises(ConfigError, match=r"tasks.train"):
        call(app, name)


def test_a_function_must_return_an_update(app):
    with pytest.raises(JobFailed, match="nothing returned a NoneType for task 'train'"):
        call(app, "nothing")
