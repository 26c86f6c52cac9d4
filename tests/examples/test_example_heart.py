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
from flprov.sdk import build_controller

Load = Callable[[str], ModuleType]
APP = ROOT / "examples" / "heart"
ILL = "63.0,1.0,4.0,145.0,233.0,1.0,2.0,110.0,1.0,3.3,3.0,2.0,7.0,2"
HEALTHY = "41,0,2,120,200,0,0,180,0,0,?,NaN,?,0"  # what most hospitals leave empty
GAP = "41,0,2,120,?,0,0,180,0,0,NaN,NaN,NaN,0"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")


@pytest.fixture
def patients(load_example: Load) -> ModuleType:
    return load_example("heart/patients")


def write_file(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_patients_with_gaps_go_unless_the_column_does(patients: ModuleType, tmp_path: Path) -> None:
    features, labels = patients.read_file(write_file(tmp_path / "f.data", [ILL, HEALTHY, GAP]))
    assert features.shape == (2, len(patients.FEATURES))
    assert labels.tolist() == [1.0, 0.0]


def test_choices_become_columns_for_all_but_their_first_kind(patients: ModuleType, tmp_path: Path) -> None:
    features, _ = patients.read_file(write_file(tmp_path / "f.data", [ILL, HEALTHY]))
    ill, healthy = (dict(zip(patients.FEATURES, row.tolist(), strict=True)) for row in features)
    assert (ill["age"], ill["st_depression"], ill["asymptomatic"], ill["hypertrophy"]) == (63, 3.3, 1, 1)
    assert (healthy["atypical_angina"], healthy["asymptomatic"], healthy["hypertrophy"]) == (1, 0, 0)


def test_a_hospital_scales_by_what_it_trains_on(patients: ModuleType, tmp_path: Path) -> None:
    training, test = patients.load_patients(write_file(tmp_path / "f.data", [ILL, HEALTHY] * 25))
    assert (len(training.labels), len(test.labels)) == (33, 17)
    np.testing.assert_allclose(training.features.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(training.features[:, 0].std(ddof=1), 1)


def test_batches_take_everybody_once_before_anybody_twice(load_example: Load) -> None:
    tasks = load_example("heart/tasks")
    found = list(tasks.draw_batches(10, 4, 7, seed=1))
    assert [len(rows) for rows in found] == [4, 4, 2, 4, 4, 2, 4]
    assert sorted(np.concatenate(found[:3])) == sorted(np.concatenate(found[3:6])) == list(range(10))


def test_gradient_and_measures_are_those_of_torch_and_scikit_learn(load_example: Load) -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("sklearn.metrics")
    tasks, patients = load_example("heart/tasks"), load_example("heart/patients")
    source = np.random.default_rng(3)
    some = patients.Patients(
        features=source.normal(size=(30, 13)), labels=(source.random(30) > 0.4).astype(float)
    )
    weights = {"weight": source.normal(size=13), "bias": np.array([0.3])}
    torch_weights = {name: torch.tensor(array, requires_grad=True) for name, array in weights.items()}
    logits = torch.tensor(some.features) @ torch_weights["weight"] + torch_weights["bias"]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(some.labels))
    loss.backward()
    found = tasks.slope(weights, some, np.arange(30))
    for name, one in torch_weights.items():
        np.testing.assert_allclose(found[name], one.grad.numpy(), rtol=1e-12)
    measured = tasks.measure(weights, some)
    assert measured["loss"] == pytest.approx(loss.item())
    scores = logits.detach().numpy()
    assert measured["auc"] == pytest.approx(metrics.roc_auc_score(some.labels, scores))
    assert measured["accuracy"] == metrics.accuracy_score(some.labels, scores > 0)


def test_other_file_is_refused(patients: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="14 columns"):
        patients.load_patients(write_file(tmp_path / "f.data", ["1,2", "3,4"]))


def test_functions_learn_from_a_tiny_file(load_example: Load, tmp_path: Path) -> None:
    load_example("heart/tasks")
    file = write_file(tmp_path / "f.data", [ILL, HEALTHY] * 10)
    metrics = average(load_job(APP), APP, {"a": file, "b": file}, rounds=3)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
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
def test_the_hospitals_have_as_many_patients_as_in_flamby(patients: ModuleType) -> None:
    sizes = [
        tuple(len(part.labels) for part in patients.load_patients(file)) for file in real_files().values()
    ]
    assert sizes == [(199, 104), (172, 89), (30, 16), (85, 45)]


@needs_data
def test_four_real_hospitals_reach_seven_in_ten(load_example: Load) -> None:
    load_example("heart/tasks")
    metrics = average(load_job(APP), APP, real_files(), rounds=15)
    assert metrics[-1]["accuracy"] > 0.7
    assert metrics[-1]["auc"] > 0.78


@needs_data
def test_baselines_are_those_of_flamby(load_example: Load) -> None:
    compare = load_example("heart/compare")
    files = list(real_files().values())
    pooled = compare.train_pooled(files, 42)["accuracy"]
    assert pooled == pytest.approx(np.mean(compare.LITERATURE["pooled"]) / 254, abs=0.015)


def test_the_verdict_is_about_both_spreads(load_example: Load) -> None:
    compare = load_example("heart/compare")

    def verdict(name: str, *right: int) -> str:
        accuracy = tuple(one / compare.HELD_OUT for one in right)
        return compare.Line(name=name, accuracy=accuracy, auc=accuracy, seconds=1.0).verdict

    assert verdict("fedavg", 180, 183, 178, 176, 179) == "within"
    assert verdict("fedavg", 200, 200, 201) == "above"
    assert verdict("fedavg", 150, 150, 151) == "below"
    assert verdict("fedavg_he", 150, 150) == "-"


def test_every_study_is_an_app_that_loads(load_example: Load, tmp_path: Path) -> None:
    compare = load_example("heart/compare")
    for study in compare.STUDIES:
        spec = load_job(compare.write_app(study, tmp_path / study.name))
        assert (spec.workflow.type, spec.args["lr"]) == (study.workflow, study.lr)
        if not study.workflow.endswith("_he"):
            build_controller(spec.workflow.type, None, spec.workflow.options)


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
    overall, *hospitals = map(float, rows[-1].split())
    assert 0.6 < overall <= 1
    assert all(0 <= value <= 1 for value in hospitals)
    assert (tmp_path / "run" / "result" / "model.safetensors").stat().st_size > 0
