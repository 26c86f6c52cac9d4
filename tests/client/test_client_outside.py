# SPDX-License-Identifier: Apache-2.0
"""The client API outside a job, and in a script that a parent starts directly."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flprov.client as fl
from flprov.errors import Misuse

# The parent's side of a worker is with the tests of the workers.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workers"))
from parents import ROOT, Parent, job


@pytest.mark.parametrize(
    "call",
    [
        fl.init,
        fl.is_running,
        fl.receive,
        fl.is_train,
        fl.is_evaluate,
        fl.task_name,
        fl.site_name,
        fl.job_id,
        fl.aborted,
        lambda: fl.send(fl.Model()),
        lambda: fl.log("loss", 1.0),
        lambda: fl.dataset("heart"),
    ],
)
def test_outside_a_job_each_call_says_so_with_a_hint(call):
    with pytest.raises(Misuse, match="not started by a flprov job") as caught:
        call()
    assert "flprov simulate" in caught.value.hint


def test_a_model_has_sensible_defaults_and_takes_keywords_only():
    model = fl.Model()
    assert (dict(model.params), dict(model.metrics), model.samples, model.weight) == ({}, {}, 0, None)
    with pytest.raises(TypeError):
        fl.Model({})


def test_the_names_are_the_documented_ones():
    documented = {"init", "is_running", "receive", "send", "Model", "site_name", "job_id", "is_train"}
    documented |= {"is_evaluate", "log", "aborted", "correct_gradients", "dataset", "task_name"}
    assert set(fl.__all__) == documented
    assert sorted(fl.__all__) == fl.__all__


def test_a_script_can_be_started_by_a_parent_directly(tmp_path):
    text = """
import flprov.client as fl
fl.init()
fl.init()
while fl.is_running():
    model = fl.receive()
    fl.send(fl.Model(params=model.params, samples=3))
"""
    command = [sys.executable, str(tmp_path / "app" / "train.py")]
    with Parent(tmp_path, {"train.py": text}, job("train.py"), command=command) as parent:
        parent.start_site()
        for number in range(2):
            parent.task(model={"w": np.ones(2)}, number=number)
            assert parent.update().samples == 3
        assert parent.quit() == 0


def test_importing_the_client_stays_light():
    heavy = "torch", "grpc", "cryptography", "sqlite3", "asyncio", "yaml"
    code = f"import sys, flprov.client; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []
