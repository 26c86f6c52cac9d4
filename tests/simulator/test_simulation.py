# SPDX-License-Identifier: Apache-2.0
"""A federation inside one process: the same result as by hand, its files, its mistakes, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from flprov.errors import ConfigError, LocalError, Misuse, NotFound
from flprov.server.sights.jobs import round_document
from flprov.simulator import Simulation, simulate
from flprov.simulator.simulation import _heavy
from flprov.wire import read_tensors

JOB = """
name: steps
workflow: {type: fedavg, rounds: 2}
model: model:initial
tasks: train:train
args: {lr: 0.5}
data: [base]
"""
MODEL = """
import numpy as np


def initial():
    return {"w": np.array([1.0, -2.0, 0.0], dtype=np.float32), "n": np.array([10], dtype=np.int64)}
"""
# Each site pulls w towards a point of its own, and has a number of samples of its own.
TRAIN = """
import numpy as np
from flprov.messages import Update

POINTS = {"site-1": [4.0, 0.0, 1.0], "site-2": [0.0, 8.0, 1.0]}
SAMPLES = {"site-1": 30, "site-2": 10}


def train(task, site, lr):
    base = float((site.data("base") / "base.txt").read_text())
    point = np.array(POINTS[site.name], dtype=np.float32) + np.float32(base)
    w = task.params["w"] + np.float32(lr) * (point - task.params["w"])
    metrics = {"w0": float(w[0])}
    return Update(params={"w": w, "n": task.params["n"]}, samples=SAMPLES[site.name], metrics=metrics)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / "job.yml").write_text(JOB)
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text(TRAIN)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "herz: daten #1 'größe'"
    folder.mkdir()
    (folder / "base.txt").write_text("1.0")
    return folder


def by_hand(rounds: int, lr: float) -> np.ndarray:
    """FedAvg over the two sites: w <- sum_k n_k/n (w + lr (p_k - w)), with p_k moved by the dataset's 1.0."""
    points = np.array([[5.0, 1.0, 2.0], [1.0, 9.0, 2.0]])
    shares = np.array([30, 10]) / 40
    w = np.array([1.0, -2.0, 0.0])
    for _ in range(rounds):
        w = (shares[:, None] * (w + lr * (points - w))).sum(axis=0)
    return w


def test_two_sites_train_what_a_hand_computes(app: Path, data: Path, tmp_path: Path):
    seen = []
    wanted = Simulation(app=app, sites=2, output=tmp_path / "out", datasets={"base": data})
    done, files = simulate(wanted, on_change=seen.append)
    assert (done.state, done.reason, done.rounds_done) == ("completed", "", 2)
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    # Round 1: (3 * [3, -.5, 1] + 1 * [1, 3.5, 1]) / 4 = [2.5, .5, 1]; round 2 likewise.
    assert by_hand(1, 0.5).tolist() == [2.5, 0.5, 1.0]
    assert by_hand(2, 0.5).tolist() == [3.25, 1.75, 1.5]
    np.testing.assert_allclose(model["w"], [3.25, 1.75, 1.5], rtol=1e-6)
    assert model["w"].dtype == np.float32
    assert model["n"].tolist() == [10]
    assert model["n"].dtype == np.int64
    first = done.rounds[0]
    assert [(line.site, line.samples) for line in first.contributors] == [("site-1", 30), ("site-2", 10)]
    assert first.metrics["w0"] == pytest.approx(2.5)  # weighted by samples, as the weights are
    assert {path.name for path in files} >= {
        "model.safetensors",
        "metrics.json",
        "record.json",
        "metrics.png",
    }
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["rounds"][1]["round"] == 1
    assert seen[-1].state == "completed"
    assert "simulation" not in {thread.name for thread in threading.enumerate()}


def test_settings_change_what_runs(app: Path, data: Path, tmp_path: Path):
    wanted = Simulation(
        app=app,
        sites=2,
        output=tmp_path / "out",
        datasets={"base": data},
        settings={"rounds": "1", "args.lr": "1.0"},
    )
    done, _ = simulate(wanted)
    assert done.rounds_total == 1
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(model["w"], by_hand(1, 1.0), rtol=1e-6)


def test_each_round_is_described_once_however_often_the_job_is_shown(
    app: Path, data: Path, tmp_path: Path, monkeypatch
):
    described: list[int] = []

    def describe(record):
        described.append(record.round)
        return round_document(record)

    monkeypatch.setattr("flprov.server.simulated.run.round_document", describe)
    wanted = Simulation(
        app=app, sites=2, output=tmp_path / "out", settings={"rounds": "6"}, datasets={"base": data}
    )
    seen: list[list[int]] = []
    job, _ = simulate(wanted, on_change=lambda job: seen.append([one.round for one in job.rounds]))
    assert [one.round for one in job.rounds] == described == [0, 1, 2, 3, 4, 5]
    assert [*range(5)] in seen


def test_a_job_that_fails_at_a_site_tells_where_and_why(app: Path, data: Path, tmp_path: Path):
    (app / "train.py").write_text("def train(task, site, lr):\n    return 1 / 0\n")
    wanted = Simulation(app=app, sites=1, output=tmp_path / "out", datasets={"base": data})
    done, _ = simulate(wanted)
    assert done.state == "failed"
    assert "train.py:2: ZeroDivisionError" in done.reason


def test_a_dataset_that_nobody_named_is_refused_by_the_sites(app: Path, tmp_path: Path):
    done, _ = simulate(Simulation(app=app, sites=1, output=tmp_path / "out"))
    assert done.state == "failed"
    assert "'base'" in done.reason


def test_each_site_may_have_data_of_its_own(app: Path, data: Path, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "base.txt").write_text("2.0")
    wanted = Simulation(
        app=app,
        sites=2,
        output=tmp_path / "out",
        settings={"rounds": "1", "args.lr": "1.0"},
        datasets={"base": data},
        site_datasets={"site-2": {"base": other}},
    )
    simulate(wanted)
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    # As in the runs above, but the second site's point [1, 9, 2] is moved by one more.
    np.testing.assert_allclose(model["w"], by_hand(1, 1.0) + 10 / 40 * 1.0, rtol=1e-6)


def test_data_for_a_site_that_there_is_not_is_refused_at_once(app: Path, data: Path, tmp_path: Path):
    with pytest.raises(NotFound, match=r"no site site-3 .*site-1 to site-2"):
        simulate(
            Simulation(app=app, sites=2, output=tmp_path / "out", site_datasets={"site-3": {"base": data}})
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sites", [-1, 0, 10_001])
def test_a_number_of_sites_that_cannot_be_is_refused_at_once(app: Path, tmp_path: Path, sites):
    with pytest.raises(Misuse, match="1 to 10000"):
        simulate(Simulation(app=app, sites=sites, output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_app_with_mistakes_starts_no_job_and_leaves_no_thread(app: Path, tmp_path: Path):
    (app / "job.yml").write_text("name: steps\ntask: train:train\n")
    with pytest.raises(ConfigError, match="task"):
        simulate(Simulation(app=app, sites=1, output=tmp_path / "out"))
    assert "simulation" not in {thread.name for thread in threading.enumerate()}
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_app_is_not_found(tmp_path: Path):
    with pytest.raises(NotFound):
        simulate(Simulation(app=tmp_path / "gone", sites=1, output=tmp_path / "out"))


def test_what_goes_wrong_at_the_start_comes_out(app: Path, tmp_path: Path, monkeypatch):
    from flprov.errors import LocalError

    def breaks(*_: object, **__: object) -> None:
        raise LocalError("the disk is full")

    monkeypatch.setattr("flprov.simulator.job.ScratchBlobs", breaks)
    with pytest.raises(LocalError, match="the disk is full"):
        simulate(Simulation(app=app, sites=1, output=tmp_path / "out"))
    assert "simulation" not in {thread.name for thread in threading.enumerate()}


def test_an_environment_hidden_in_the_app_is_not_read_for_what_to_import(app: Path, tmp_path: Path):
    hidden = app / ".venv" / "lib"
    hidden.mkdir(parents=True)
    (hidden / "other.py").write_text("import torch\n")
    assert _heavy(app) == []
    (app / "net").mkdir()
    (app / "net" / "layers.py").write_text('"""Layers."""\nfrom torch import nn\n')
    assert _heavy(app) == ["torch"]
    assert _heavy(tmp_path / "nowhere") == []


def test_the_last_model_may_be_the_best_one_and_large(app: Path, data: Path, tmp_path: Path):
    (app / "model.py").write_text(MODEL.replace("[1.0, -2.0, 0.0]", "[[1.0, -2.0, 0.0]] * 50_000"))
    settings = {"workflow.best": "w0", "workflow.mode": "max"}
    (app / "train.py").write_text(TRAIN.replace("float(w[0])", "float(task.round)"))
    wanted = Simulation(app=app, sites=2, output=tmp_path / "out", datasets={"base": data}, settings=settings)
    job, files = simulate(wanted)
    assert job.state == "completed"
    best, last = (read_tensors(tmp_path / "out" / f"{name}.safetensors") for name in ("best", "model"))
    assert np.array_equal(best["w"], last["w"])
    assert all(path.is_file() for path in files)


def test_a_place_where_results_cannot_go_is_found_before_the_job_runs(app: Path, data: Path, tmp_path: Path):
    (tmp_path / "taken").write_text("somebody's")
    seen: list[object] = []
    wanted = Simulation(app=app, sites=2, output=tmp_path / "taken", datasets={"base": data})
    with pytest.raises(LocalError, match=r"results cannot be written to .*taken: Not a directory"):
        simulate(wanted, on_change=seen.append)
    assert not seen


def test_whoever_watches_may_stop_it(app: Path, data: Path, tmp_path: Path):
    """Ctrl-C in the middle: every process of the job is gone when the call returns."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    wanted = Simulation(app=app, sites=1, output=tmp_path / "out", datasets={"base": data})
    with pytest.raises(KeyboardInterrupt):
        simulate(wanted, on_change=interrupt)
    assert "simulation" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_leaves_no_folder_and_no_process(app, data, tmp_path, number):
    pipe, temporary = data / "pipe", tmp_path / "temporary"
    os.mkfifo(pipe)
    temporary.mkdir()
    (app / "train.py").write_text(
        'def train(task, site, lr):\n    (site.data("base") / "pipe").read_text()\n'
    )
    words = ["simulate", str(app), "-n", "1", "-o", str(tmp_path / "out"), "--dataset", f"base={data}"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    running = subprocess.Popen([sys.executable, "-m", "flprov", *words], env=environment)
    with pipe.open("w"):  # once the job reads it
        assert list(temporary.iterdir())
        running.send_signal(number)
        assert running.wait(20) == 128 + number
    assert not list(temporary.iterdir())
    with pytest.raises(OSError, match="No such device"):  # nobody reads it any more
        os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
