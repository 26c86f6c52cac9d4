# SPDX-License-Identifier: Apache-2.0
"""examples/xgboost_bagging, sklearn_linear and statistics: they run, and say what the pooled data say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from app_runner import ROOT, average

from flprov.jobs import load_job
from flprov.simulator import Simulation, simulate

Load = Callable[[str], ModuleType]
EXAMPLES = ROOT / "examples"


def test_scikit_learns_coefficients_are_averaged(load_example: Load) -> None:
    load_example("sklearn_linear/linear")
    app = EXAMPLES / "sklearn_linear"
    metrics = average(load_job(app), app, {f"site-{k}": app for k in (1, 2, 3)}, rounds=5)
    assert metrics[-1]["accuracy"] > 0.95 > 0.5


@pytest.mark.network
def test_bagged_trees_are_simulated_and_nearly_as_good_as_pooled_ones(
    load_example: Load, tmp_path: Path
) -> None:
    xgb = pytest.importorskip("xgboost")
    trees = load_example("xgboost_bagging/trees")
    wanted = Simulation(app=EXAMPLES / "xgboost_bagging", sites=3, output=tmp_path, settings={"rounds": "8"})
    job, _ = simulate(wanted)
    assert (job.state, len(job.rounds)) == ("completed", 8)
    parts = [trees.load(f"site-{k}") for k in (1, 2, 3)]
    rows, labels = ([getattr(training, get)() for training, _ in parts] for get in ("get_data", "get_label"))
    pooled = xgb.DMatrix(np.concatenate([one.toarray() for one in rows]), np.concatenate(labels))
    settings = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.3, "base_score": 0.5, "nthread": 1}
    booster = xgb.train(settings, pooled, 8)
    weights = [test.num_row() for _, test in parts]
    scores = [trees.roc_auc_score(test.get_label(), booster.predict(test)) for _, test in parts]
    assert job.rounds[-1].metrics["auc"] > np.average(scores, weights=weights) - 0.02 > 0.9


@pytest.mark.network
def test_statistics_are_simulated_and_drawn(load_example: Load, tmp_path: Path) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    plot = load_example("statistics/plot")
    job, _ = simulate(Simulation(app=EXAMPLES / "statistics", sites=2, output=tmp_path))
    assert (job.state, job.reason) == ("completed", "")
    document = json.loads((tmp_path / "statistics.json").read_text())
    found = document["datasets"]["data"]["mean radius"]
    radius = datasets.load_breast_cancer().data[: 569 * 2 // 3, 0]
    assert found["count"] == len(radius)
    assert found["mean"] == pytest.approx(radius.mean())
    assert found["stddev"] == pytest.approx(radius.std(ddof=1))
    assert found["min"] < radius.min() < radius.max() < found["max"]  # with noise
    assert plot.draw(document, tmp_path / "histograms.png").stat().st_size > 10_000
