# SPDX-License-Identifier: Apache-2.0
"""The README's first job is a real one: its two files are taken out of the page and run."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from house_docs import blocks
from house_tree import ROOT

import flprov.client
from flprov.cli import root
from flprov.jobs import build_bundle, load_job

README = ROOT / "README.md"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """`first/`, as somebody would make it who copies it from the page."""
    for block in blocks(README):
        named = re.match(r"\*\*`(first/[\w.]+)`\*\*", block.before)
        if named:
            path = tmp_path / named[1]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)
    return tmp_path / "first"


def test_the_app_of_the_readme_has_its_two_files_and_builds(app):
    assert sorted(path.name for path in app.iterdir()) == ["job.yml", "train.py"]
    bundle = build_bundle(app)
    assert bundle.files == ("job.yml", "train.py")
    assert bundle.spec.name == "first"


def test_app_build_takes_it_as_the_readme_types_it(app, monkeypatch):
    monkeypatch.chdir(app.parent)
    done = CliRunner().invoke(root, ["app", "build", "first"])
    assert done.exit_code == 0
    assert build_bundle(app).digest in done.output


class FakeClient(ModuleType):
    """`flprov.client` for one round at one site."""

    Model = flprov.client.Model

    def __init__(self, site: str, number: int, params: Mapping[str, Any]) -> None:
        super().__init__("flprov.client")
        self.sent: list[flprov.client.Model] = []
        self._site = site
        self._model = self.Model(params=params, round=number)

    def init(self) -> None:
        pass

    def site_name(self) -> str:
        return self._site

    def is_running(self) -> bool:
        return not self.sent

    def receive(self) -> flprov.client.Model:
        return self._model

    def send(self, model: flprov.client.Model) -> None:
        self.sent.append(model)


def run_script(app: Path, site: str, number: int, params: Mapping[str, Any], monkeypatch) -> Any:
    fake = FakeClient(site, number, params)
    monkeypatch.setitem(sys.modules, "flprov.client", fake)
    monkeypatch.setattr("flprov.client", fake)
    words = [f"--{name}={value}" for name, value in load_job(app).args.items()]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    exec(compile((app / "train.py").read_text(), "train.py", "exec"), {"__name__": "__main__"})
    (sent,) = fake.sent
    return sent


def test_averaging_what_its_script_sends_finds_the_line(app, monkeypatch, capsys):
    params: dict[str, Any] = {}
    losses = []
    for number in range(load_job(app).workflow.rounds):
        sent = [run_script(app, site, number, params, monkeypatch) for site in ("site-1", "site-2")]
        params = {name: np.mean([one.params[name] for one in sent], axis=0) for name in ("slope", "offset")}
        losses.append(sent[0].metrics["loss"])
    assert params["slope"] == pytest.approx(3, abs=0.05)
    assert params["offset"] == pytest.approx(1, abs=0.05)
    assert losses[-1] < losses[0]
    assert sent[0].samples == 200
    assert "site-2 round 4: loss" in capsys.readouterr().out


@pytest.mark.network
@pytest.mark.skipif(
    importlib.util.find_spec("flprov.cli.simulate") is None, reason="`flprov simulate` is not there yet"
)
def test_it_runs_in_the_simulator_as_the_readme_types_it(app, monkeypatch):
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "flprov", "simulate", "first", "-n", "2", "-o", "out"],
        cwd=app.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    from flprov.wire import read_tensors

    (model,) = app.parent.joinpath("out").rglob("model.safetensors")
    tensors = read_tensors(model)
    assert float(np.asarray(tensors["slope"])[0]) == pytest.approx(3, abs=0.05)
