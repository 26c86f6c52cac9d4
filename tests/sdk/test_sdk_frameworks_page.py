# SPDX-License-Identifier: Apache-2.0
"""docs/frameworks.md: its snippets do what the page says."""

import re
from pathlib import Path

import numpy as np
import pytest

from flprov.messages import Task

PAGE = (Path(__file__).parents[2] / "docs/frameworks.md").read_text()
SNIPPETS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE, re.S | re.M))


def run(section: str) -> dict:
    space = {}
    exec(compile(SNIPPETS[section], f"docs/frameworks.md: {section}", "exec"), space)
    return space


def test_every_framework_of_the_table_but_numpy_and_torch_has_a_snippet():
    rows = re.findall(r"^\| (\w[^|]*?) \|", PAGE, re.M)
    shown = " ".join(SNIPPETS)
    assert [row for row in rows if row not in shown] == ["framework", "numpy", "PyTorch"]


@pytest.mark.parametrize("section", SNIPPETS)
def test_every_snippet_is_python(section):
    compile(SNIPPETS[section], section, "exec")


def test_jax_arrays_are_sent_bit_by_bit():
    pytest.importorskip("jax")
    assert set(run("JAX")["sent"]) == {"dense/kernel", "dense/bias"}


def test_a_model_of_scikit_learn_learns_from_round_to_round():
    pytest.importorskip("sklearn")
    space = run("scikit-learn")
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 30))
    y = (x[:, 0] > 0).astype(int)
    params = space["initial"]()
    for number in range(3):
        update = space["fit"](
            Task(name="train", round=number, rounds=3, job_id="j", params=params, seed=number), x, y
        )
        assert {name: array.shape for name, array in update.params.items()} == {
            "coef": (1, 30),
            "intercept": (1,),
        }
        params = update.params
    assert ((x @ params["coef"][0] + params["intercept"][0] > 0) == y).mean() > 0.9


def test_a_booster_comes_out_of_its_tensor():
    xgboost = pytest.importorskip("xgboost")
    matrix = xgboost.DMatrix(np.arange(8.0).reshape(8, 1), np.arange(8) > 3)
    booster = xgboost.train({"objective": "binary:logistic"}, matrix, 2)
    tensor = np.frombuffer(booster.save_raw("json"), dtype=np.uint8)
    opened = run("XGBoost")["open_booster"]({"booster": tensor})
    assert opened.predict(matrix).tolist() == booster.predict(matrix).tolist()
