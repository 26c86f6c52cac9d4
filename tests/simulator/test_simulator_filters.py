# SPDX-License-Identifier: Apache-2.0
"""Filters in a whole job: quantised tensors travel in a quarter of the bytes, and train as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors

MODEL = """
import numpy as np


def initial():
    return {"w": np.linspace(-1, 1, 100_000, dtype=np.float32)}
"""
TRAIN = """
import numpy as np
from flprov.messages import Update, UpdateKind


def train(task, site):
    target = np.sin(np.arange(100_000, dtype=np.float32))
    step = np.float32(0.5) * (target - task.params["w"])
    return Update(params={"w": step}, kind=UpdateKind.DIFF, samples=1)
"""
QUANTIZED = """
name: small
workflow: {type: fedavg, rounds: 2}
model: model:initial
tasks: train:train
filters:
  task: {server: [{type: quantize, to: fp16}]}
  result: {site: [{type: quantize, to: int8}]}
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "job.yml").write_text(QUANTIZED)
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text(TRAIN)
    return folder


def test_quantised_updates_take_a_quarter_of_the_bytes_and_train_as_well(app: Path, tmp_path: Path):
    done, _ = simulate(Simulation(app=app, sites=2, output=tmp_path / "out"))
    assert (done.state, done.reason) == ("completed", "")
    whole = 4 * 100_000
    for record in done.rounds:
        assert [line.bytes for line in record.contributors] == pytest.approx([whole / 4] * 2, rel=0.01)
        assert 0 < record.metrics["quantize_max_error"] < 0.005
    found = read_tensors(tmp_path / "out" / "model.safetensors")["w"]
    start, target = np.linspace(-1, 1, 100_000), np.sin(np.arange(100_000))
    np.testing.assert_allclose(found, target + 0.25 * (start - target), atol=0.01)
    log = (tmp_path / "out" / "logs" / "site-1.log").read_text()
    assert "flprov: filters.result.site: quantize: the numbers are rounded to int8" in log
    assert "quantize_max_error" in (tmp_path / "out" / "logs" / "server.log").read_text()
