# SPDX-License-Identifier: Apache-2.0
"""Every app that we ship is a whole app."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from app_runner import ROOT, run_script

from flprov.jobs import build_bundle, load_job
from flprov.wire import read_tensors

APPS = sorted(
    path.parent for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("job.yml")
)


def test_there_are_apps() -> None:
    assert {"breast_cancer", "heart", "numpy_mean"} <= {app.name for app in APPS}


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_app_builds_to_the_same_bundle_twice(app: Path) -> None:
    assert load_job(app).name == app.name
    assert build_bundle(app).digest == build_bundle(app).digest


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
def test_app_says_what_it_is_for(app: Path) -> None:
    assert (app / "job.yml").read_text().startswith("# ")


def test_every_example_is_in_the_list() -> None:
    listed = (ROOT / "examples" / "README.md").read_text()
    for app in (ROOT / "examples").glob("*/job.yml"):
        assert f"({app.parent.name})" in listed


@pytest.mark.usefixtures("own_modules")
def test_numpy_mean_sends_the_mean_of_its_numbers(tmp_path: Path) -> None:
    (update,) = run_script("numpy_mean", tmp_path, site="site-1", tasks=["train"])
    mean = float(read_tensors(update.tensors.inline)["mean"])
    assert (update.samples, update.metrics["mean"]) == (1000, mean)
    own = np.random.default_rng(0).normal(size=1000).std() / 1000**0.5
    assert abs(mean - round(mean)) < 5 * own  # the numbers scatter around a whole one
