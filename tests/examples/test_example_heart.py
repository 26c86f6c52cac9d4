# SPDX-License-Identifier: Apache-2.0
"""examples/heart: gaps in the files, and that four hospitals learn something together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from app_runner import ROOT, average

from flprov.errors import NotFound
from flprov.jobs import load_job

Load = Callable[[str], ModuleType]
APP = ROOT / "examples" / "heart"
ILL = "63.0,1.0,4.0,145.0,233.0,1.0,2.0,110.0,1.0,3.3,3.0,2.0,7.0,2"
HEALTHY = "41,0,2,120,?,0,0,180,0,0,NaN,NaN,NaN,0"
COLUMN = {"cholesterol": 4, "cholesterol missing": 5}  # of the features
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture
def patients(load_example: Load) -> ModuleType:
    return load_example("heart/patients")


def write_file(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_missing_values_become_numbers_that_say_so(patients: ModuleType) -> None:
    row = np.full((1, 14), np.nan)
    features = patients.encode(row)[0]
    assert features.shape == (patients.WIDTH,)
    numbers, choices = features[: 2 * len(patients.NUMBERS)], features[2 * len(patients.NUMBERS) :]
    assert numbers.tolist() == [0.0, 1.0] * len(patients.NUMBERS)
    assert not choices.any()


def test_cholesterol_of_zero_is_missing(patients: ModuleType) -> None:
    rows = np.ones((2, 14))
    rows[:, 4] = (0, 299)
    features = patients.encode(rows)
    assert features[:, COLUMN["cholesterol"]].tolist() == [0.0, 1.0]
    assert features[:, COLUMN["cholesterol missing"]].tolist() == [1.0, 0.0]


def test_choice_becomes_one_column_per_kind(patients: ModuleType) -> None:
    rows = np.full((3, 14), np.nan)
    rows[:, 12] = (3, 6, 7)
    assert patients.encode(rows)[:, -3:].tolist() == np.eye(3).tolist()


def test_both_spellings_of_missing_are_read(patients: ModuleType, tmp_path: Path) -> None:
    file = write_file(tmp_path / "f.data", [ILL, HEALTHY] * 6)
    training, test = patients.load_patients(file)
    assert (len(training.labels), len(test.labels)) == (9, 3)
    assert bool(training.features.isfinite().all())
    assert set(training.labels.tolist()) <= {0.0, 1.0}


def test_other_file_is_refused(patients: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="14 columns"):
        patients.load_patients(write_file(tmp_path / "f.data", ["1,2", "3,4"]))


def test_functions_learn_from_a_tiny_file(load_example: Load, tmp_path: Path) -> None:
    load_example("heart/tasks")
    file = write_file(tmp_path / "f.data", [ILL, HEALTHY] * 10)
    metrics = average(load_job(APP), APP, {"a": file, "b": file}, rounds=3)
    assert metrics[-1]["loss"] < metrics[0]["loss"] < 0.69
    assert metrics[-1]["accuracy"] == 1.0


def real_files() -> dict[str, Path]:
    """The four hospitals' files; none if they are not on this machine."""
    folder = Path(os.environ.get("FLPROV_DATA", ROOT.parent / "shared" / "data")) / "heart"
    files = {name: folder / f"processed.{name}.data" for name in HOSPITALS}
    return files if all(file.is_file() for file in files.values()) else {}


needs_data = pytest.mark.skipif(
    not real_files(), reason="the heart data are not here: FLPROV_DATA names their folder"
)


@needs_data
def test_four_real_hospitals_reach_four_fifths(load_example: Load) -> None:
    load_example("heart/tasks")
    metrics = average(load_job(APP), APP, real_files(), rounds=15)
    assert metrics[-1]["accuracy"] > 0.79 > metrics[0]["accuracy"]


def test_run_script_names_the_file_that_is_missing(load_example: Load, tmp_path: Path) -> None:
    run = load_example("heart/run")
    (tmp_path / "heart").mkdir()
    for name in HOSPITALS[:3]:
        write_file(tmp_path / "heart" / f"processed.{name}.data", [ILL])
    with pytest.raises(NotFound, match=r"processed\.va\.data"):
        run.find_datasets(tmp_path)


def test_run_script_gives_each_site_its_own_file(load_example: Load, tmp_path: Path) -> None:
    run = load_example("heart/run")
    for name in HOSPITALS:
        write_file(tmp_path / f"processed.{name}.data", [ILL])
    found = {dataset.site: dataset.path.name for dataset in run.find_datasets(tmp_path)}
    assert found == {f"site-{n}": f"processed.{name}.data" for n, name in enumerate(HOSPITALS, start=1)}


def test_run_script_asks_for_the_folder(
    load_example: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_example("heart/run")
    monkeypatch.delenv("FLPROV_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit) as stopped:
        run.read_options()
    assert stopped.value.code == 2
    assert "FLPROV_DATA" in capsys.readouterr().err


@needs_data
@pytest.mark.slow
@pytest.mark.network
def test_run_script_trains_over_a_network_of_four_sites(tmp_path: Path) -> None:
    folder = real_files()["va"].parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLPROV_")}
    done = subprocess.run(
        [
            sys.executable,
            str(APP / "run.py"),
            str(folder),
            "--rounds",
            "2",
            "--folder",
            str(tmp_path / "run"),
        ],
        env=environment | {"XDG_CONFIG_HOME": str(tmp_path / "config")},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^ +[12]((?: +[01]\.\d{3}){5})$", done.stdout, re.MULTILINE)
    assert len(rows) == 2
    assert all(0.6 < float(value) <= 1 for value in rows[-1].split())
    assert (tmp_path / "run" / "result" / "model.safetensors").stat().st_size > 0
