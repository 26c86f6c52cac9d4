# SPDX-License-Identifier: Apache-2.0
"""Small apps to read, pack and unpack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

JOB = """\
name: heart
workflow: {type: fedavg, rounds: 20}
model: model:Net
tasks:
  train: train.py
  evaluate: train:evaluate
args: {epochs: 1, lr: 0.01}
data: [heart]
needs: ["torch>=2.4"]
sites: {min: 2, required: [], absence: 10m}
resources: {gpus: 0, gpu_memory: 0, cpus: 1, memory: 1GiB, grace: 1s}
filters:
  task:   {server: [], site: []}
  result: {site: [{type: clip_norm, max_norm: 1.0}], server: []}
"""


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., Path]:
    """make_app(job=..., files={...}) -> folder with job.yml, train.py and model.py."""

    def make(job: str = JOB, files: Mapping[str, str | bytes] | None = None, name: str = "app") -> Path:
        folder = tmp_path / name
        contents: dict[str, str | bytes] = {"job.yml": job, "train.py": "x = 1\n", "model.py": "y = 2\n"}
        for path, data in (contents | dict(files or {})).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data if isinstance(data, bytes) else data.encode())
        return folder

    return make
