# SPDX-License-Identifier: Apache-2.0
"""`flprov simulate`: what it asks the simulator for, and one real run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_admin import BEEP, make_job
from cli_process import run_process

from flprov.errors import ConfigError, Misuse
from flprov.wire import documents as doc


class FakeSimulator:
    """Stands for `flprov.simulator.simulate`."""

    def __init__(self) -> None:
        self.wanted: list[Any] = []
        self.ended = make_job("completed")
        self.fails: Exception | None = None
        self.files: dict[str, str] = {}  # of the result, beside the model

    def simulate(
        self, wanted: Any, *, on_change: Callable[[doc.JobDocument], None]
    ) -> tuple[doc.JobDocument, list[Path]]:
        self.wanted.append(wanted)
        if self.fails is not None:
            raise self.fails
        on_change(self.ended)
        wanted.output.mkdir(parents=True, exist_ok=True)
        (wanted.output / "model.safetensors").write_bytes(b"x" * 2048)
        for name, text in self.files.items():
            (wanted.output / name).parent.mkdir(exist_ok=True)
            (wanted.output / name).write_text(text)
        return self.ended, [wanted.output / name for name in ("model.safetensors", *self.files)]


@pytest.fixture
def simulator(run, monkeypatch, tmp_path: Path):
    fake = FakeSimulator()
    monkeypatch.setattr("flprov.simulator.simulate", fake.simulate)
    (tmp_path / "app").mkdir()
    return fake


def test_a_run_names_its_files_and_shows_its_rounds(run, simulator: FakeSimulator):
    ran = run("simulate", "app")
    assert (ran.code, ran.out) == (0, "app-simulated/model.safetensors  2.0 KiB\n")
    assert "  round 2 of 2   " in ran.err
    [wanted] = simulator.wanted
    assert (wanted.app, wanted.sites, wanted.output, wanted.min_sites) == (
        Path("app"),
        2,
        Path("app-simulated"),
        None,
    )


def test_all_that_was_asked_for_is_simulated(run, simulator: FakeSimulator, tmp_path: Path):
    (tmp_path / "a=b").touch()
    words = ["-n", "8", "-o", "out", "--set", "rounds=3", "--dataset", "heart=a=b", "--min-sites", "5"]
    assert run("simulate", "app", *words).code == 0
    [wanted] = simulator.wanted
    assert (wanted.sites, wanted.output, wanted.min_sites) == (8, Path("out"), 5)
    assert wanted.settings == {"rounds": "3"}
    assert (wanted.datasets, wanted.site_datasets) == ({"heart": tmp_path / "a=b"}, {})


def test_of_a_run_that_failed_it_shows_the_first_traceback_and_what_to_do(run, simulator: FakeSimulator):
    simulator.ended = make_job("failed", reason="site-1: train.py:3: no such optimizer")
    simulator.files = {
        "record.json": json.dumps(
            {
                "causes": [
                    {
                        "at": None,
                        "party": "site-1",
                        "code": "x",
                        "message": "m",
                        "traceback": "Traceback: SDG",
                    },
                    {"at": None, "party": "site-2", "code": "x", "message": "m", "hint": "not this one"},
                ]
            }
        ),
        "logs/site-1.log": "what it printed",
    }
    ran = run("simulate", "app")
    assert ran.code == 1
    assert "the first traceback, from site-1:\nTraceback: SDG" in ran.err
    assert ran.err.endswith("next: read app-simulated/logs/site-1.log, which has what site-1 printed\n")

    simulator.files["record.json"] = simulator.files["record.json"].replace(
        '"m", "tr', '"m", "hint": "H", "tr'
    )
    assert run("simulate", "app", "-o", "again").err.endswith("next: H\n")


def test_sites_can_have_data_of_their_own(run, simulator: FakeSimulator, tmp_path: Path):
    for name in ("all", "first", "second"):
        (tmp_path / name).touch()
    pairs = ["lung=all", "site-1:heart=first", "site-2:heart=second", "site-2:lung=second"]
    assert run("simulate", "app", *(word for pair in pairs for word in ("--dataset", pair))).code == 0
    [wanted] = simulator.wanted
    assert wanted.datasets == {"lung": tmp_path / "all"}
    assert wanted.site_datasets == {
        "site-1": {"heart": tmp_path / "first"},
        "site-2": {"heart": tmp_path / "second", "lung": tmp_path / "second"},
    }


@pytest.mark.parametrize(
    ("state", "code"), [("completed", 0), ("degraded", 7), ("failed", 1), ("aborted", 1)]
)
def test_how_the_job_ended_is_the_exit_code_and_json_one_document(run, simulator, state, code):
    simulator.ended = make_job(state, reason="because")
    ran = run("simulate", "app", "--json")
    assert ran.code == code
    assert ran.document(doc.JobDocument) == simulator.ended


def test_results_of_an_earlier_run_are_not_mixed_with_new_ones(run, simulator: FakeSimulator, tmp_path: Path):
    (tmp_path / "app-simulated").mkdir()
    assert run("simulate", "app").code == 0  # empty: nothing to mix with
    ran = run("simulate", "app")
    assert (ran.code, ran.out) == (2, "")
    assert "not empty" in ran.err
    assert "-o" in ran.err
    assert len(simulator.wanted) == 1


@pytest.mark.parametrize("pair", ["heart", "heart=", "=app", "site-1:=app", ""])
def test_a_dataset_that_is_none_is_a_mistake(run, simulator: FakeSimulator, pair):
    ran = run("simulate", "app", "--dataset", pair)
    assert ran.code == 2
    assert "--dataset takes name=/path or site:name=/path" in ran.err
    assert simulator.wanted == []


def test_a_dataset_that_is_not_there_is_not_found(run, simulator: FakeSimulator):
    ran = run("simulate", "app", "--dataset", "site-2:heart=gone")
    assert ran.code == 5
    assert "dataset heart: there is nothing at" in ran.err
    assert simulator.wanted == []


def test_a_setting_that_is_none_is_a_mistake(run, simulator: FakeSimulator):
    ran = run("simulate", "app", "--set", "rounds")
    assert ran.code == 2
    assert simulator.wanted == []


@pytest.mark.parametrize(
    "error", [Misuse("300 sites; the simulator runs 1 to 256"), ConfigError("job.yml:2: no")]
)
def test_what_the_simulator_refuses_is_told(run, simulator: FakeSimulator, error):
    simulator.fails = error
    ran = run("simulate", "app", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert str(error) in ran.err


def test_a_reason_cannot_drive_the_terminal(run, simulator: FakeSimulator):
    simulator.ended = make_job("failed", reason=BEEP)
    ran = run("simulate", "app")
    assert "[31mred" in ran.err
    assert not {"\x1b", "\x07", "\u202e"} & set(ran.out + ran.err)


def test_in_a_process_of_its_own_it_runs_an_app(tmp_path: Path):
    app = tmp_path / "mean"
    app.mkdir()
    (app / "job.yml").write_text("name: mean\nworkflow: {type: fedavg, rounds: 1}\ntasks: train:train\n")
    (app / "train.py").write_text(
        "import numpy as np\nfrom flprov.messages import Update\n\n\n"
        "def train(task, site):\n    return Update(params={'w': np.ones(3)}, samples=5, metrics={'m': 2.0})\n"
    )
    ran = run_process("simulate", "mean", "-n", "2", "--json", folder=tmp_path)
    assert ran.code == 0, ran.err
    done = ran.document(doc.JobDocument)
    assert (done.state, len(done.sites), done.rounds[0].metrics) == ("completed", 2, {"m": 2.0})
    metrics = json.loads((tmp_path / "mean-simulated" / "metrics.json").read_text())
    assert metrics["rounds"][0]["sites"]["site-2"]["samples"] == 5
    assert (tmp_path / "mean-simulated" / "model.safetensors").exists()
