# SPDX-License-Identifier: Apache-2.0
"""Every workflow over several seeds, beside what FLamby reports for the same four hospitals.

The literature: FLamby (Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated
Learning in Realistic Healthcare Settings", NeurIPS 2022), whose paper draws these results and whose
repository keeps them as numbers: github.com/owkin/FLamby, flamby/results/, in the folder
results_benchmark_fed_heart_disease, one file per seed (42, 45 and 46 at commit a422b61, 43 and 44 at
f553c7a), settings in flamby/config_heart_disease.json at 88fbe60. `LITERATURE` is how many of the 254
patients held out each method judges rightly there, per seed: of "pooled" its "Pooled Test", of the others
the hospitals' tests added up ("alone": each hospital's model on its own).
"""

from __future__ import annotations

import functools
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from model import first_weights
from patients import Patients, load_patients, scale, split_patients
from tasks import draw_batches, measure, slope

from flprov.simulator import Simulation, simulate

APP = Path(__file__).resolve().parent
HELD_OUT = 254
SEEDS = (42, 43, 44, 45, 46)  # FLamby's
ROUNDS, STEPS, BATCH = 15, 100, 4  # FLamby's
LITERATURE = {
    "pooled": (201, 202, 202, 203, 202),
    "alone": (190, 188, 183, 186, 189),
    "fedavg": (180, 183, 178, 176, 179),
    "fedprox": (180, 183, 178, 176, 179),
    "fedopt, adam": (186, 181, 190, 187, 188),
    "fedopt, yogi": (187, 183, 192, 188, 191),
    "fedopt, adagrad": (187, 183, 192, 188, 191),
    "scaffold": (178, 183, 178, 175, 179),
    "cyclic": (187, 187, 183, 192, 185),
}
Scores = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Study:
    """One workflow with FLamby's settings."""

    workflow: str
    lr: float  # of the hospitals
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in the table."""
        kind = self.options.get("optimizer")
        return f"{self.workflow}, {kind}" if kind else self.workflow


STUDIES = (
    Study(workflow="fedavg", lr=0.001),
    Study(workflow="fedprox", lr=0.001, options={"mu": 0.01}),
    Study(workflow="fedopt", lr=0.01, options={"optimizer": "adam", "lr": 0.01, "tau": 1e-8, "beta2": 0.999}),
    Study(
        workflow="fedopt", lr=0.003162, options={"optimizer": "yogi", "lr": 0.01, "tau": 1e-8, "beta2": 0.999}
    ),
    Study(workflow="fedopt", lr=0.003162, options={"optimizer": "adagrad", "lr": 0.316228, "tau": 1e-8}),
    Study(workflow="scaffold", lr=0.001, options={"weighted": True}),
    Study(workflow="cyclic", lr=0.01, options={"order": "random"}),
    Study(workflow="fedavg_he", lr=0.001),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one method reaches: per seed, the accuracy and the AUC."""

    name: str
    accuracy: tuple[float, ...]
    auc: tuple[float, ...]
    seconds: float

    @property
    def literature(self) -> tuple[float, ...]:
        """FLamby's accuracies; none where it has no such method."""
        return tuple(right / HELD_OUT for right in LITERATURE.get(self.name, ()))

    @property
    def verdict(self) -> str:
        """Whether the two means are no further apart than the two standard deviations together."""
        if not self.literature or len(self.accuracy) < 2:
            return "-"
        ours, theirs = statistics.mean(self.accuracy), statistics.mean(self.literature)
        apart = abs(ours - theirs)
        spread = statistics.stdev(self.accuracy) + statistics.stdev(self.literature)
        return "within" if apart <= spread else "above" if ours > theirs else "below"


def compare(
    files: Mapping[str, Path],
    names: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    tell: Callable[[str], None],
) -> list[Line]:
    """Run every study of these workflows, and what a hospital alone and all the data in one place give.

    Args:
        files: site -> its file.
        names: workflows.
        seeds: of the first weights and the batches.
        folder: where apps and results are made.
        tell: gets each line once it is there.
    """
    hospitals = {site: load_patients(file) for site, file in files.items()}
    runs: list[tuple[str, Callable[[int], Scores]]] = [
        ("pooled", lambda seed: train_pooled(list(files.values()), seed)),
        ("alone", lambda seed: train_alone(list(hospitals.values()), seed)),
    ]
    runs += [
        (study.name, functools.partial(run_study, study, files, folder))
        for study in STUDIES
        if study.workflow in names
    ]
    lines = []
    for name, run in runs:
        began = time.monotonic()
        scores = [run(seed) for seed in seeds]
        line = Line(
            name=name,
            accuracy=tuple(score["accuracy"] for score in scores),
            auc=tuple(score["auc"] for score in scores),
            seconds=time.monotonic() - began,
        )
        lines.append(line)
        tell(row_of(line))
    return lines


def run_study(study: Study, files: Mapping[str, Path], folder: Path, seed: int) -> Scores:
    """One simulated job; what the sites measure of its last model."""
    place = folder / f"{study.name.replace(', ', '-')}-{seed}"
    app = write_app(study, place / "app")
    job, _ = simulate(
        Simulation(
            app=app,
            sites=len(files),
            output=place / "result",
            settings={"workflow.seed": str(seed)},
            site_datasets={site: {"heart": file} for site, file in files.items()},
        )
    )
    if job.state != "completed":
        raise RuntimeError(f"{study.name} with seed {seed} is {job.state}: {job.reason}")
    return job.rounds[-1].metrics


def write_app(study: Study, folder: Path) -> Path:
    """The app of this folder with this workflow in its job.yml."""
    folder.mkdir(parents=True)
    for name in ("model.py", "patients.py", "tasks.py"):
        shutil.copy(APP / name, folder / name)
    workflow = {"type": study.workflow, "rounds": ROUNDS, **study.options}
    args = {"steps": STEPS, "batch": BATCH, "lr": study.lr}
    lines = []
    for line in (APP / "job.yml").read_text().splitlines():
        key = line.partition(":")[0]
        values = {"workflow": workflow, "args": args}.get(key)
        lines.append(line if values is None else f"{key}: {json.dumps(values)}")  # JSON is YAML
    (folder / "job.yml").write_text("\n".join(lines) + "\n")
    return folder


def train_pooled(files: Sequence[Path], seed: int) -> Scores:
    """All patients in one place, scaled together: what no hospital may do."""
    parts = [split_patients(file) for file in files]
    training, test = (
        Patients(
            features=np.concatenate([part[which].features for part in parts]),
            labels=np.concatenate([part[which].labels for part in parts]),
        )
        for which in (0, 1)
    )
    return measure(fit(scale(training, training), seed), scale(test, training))


def train_alone(hospitals: Sequence[tuple[Patients, Patients]], seed: int) -> Scores:
    """Each hospital for itself, measured on its own patients."""
    return mean_scores(
        [(measure(fit(training, seed), test), len(test.labels)) for training, test in hospitals]
    )


def fit(patients: Patients, seed: int, epochs: int = 50, lr: float = 0.001) -> dict[str, np.ndarray]:
    """FLamby's baseline: 50 epochs of Adam (Kingma, Ba, 2015) in batches of 4."""
    np.random.seed(seed)
    weights = {name: array.astype(np.float64) for name, array in first_weights().items()}
    first = {name: np.zeros_like(array) for name, array in weights.items()}
    second = {name: np.zeros_like(array) for name, array in weights.items()}
    steps = epochs * -(-len(patients.labels) // BATCH)
    for step, rows in enumerate(draw_batches(len(patients.labels), BATCH, steps, seed), start=1):
        for name, gradient in slope(weights, patients, rows).items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            away = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            weights[name] = weights[name] - lr * first[name] / (1 - 0.9**step) / away
    return weights


def mean_scores(rows: Sequence[tuple[Scores, int]]) -> Scores:
    """Weighted by patients, over the hospitals that have the score; as a job's rounds show them."""
    found = {}
    for name in ("accuracy", "auc"):
        having = [(scores[name], count) for scores, count in rows if name in scores]
        found[name] = sum(score * count for score, count in having) / sum(count for _, count in having)
    return found


def row_of(line: Line) -> str:
    """A line of the table."""
    theirs = show(line.literature) if line.literature else "-"
    cells = (line.name, show(line.accuracy), theirs, line.verdict, show(line.auc), f"{line.seconds:.0f} s")
    return "| " + " | ".join(cells) + " |"


HEAD = (
    "| | accuracy | FLamby's | | AUC | time |",
    "|---|---|---|---|---|---|",
)


def show(values: Sequence[float]) -> str:
    """Mean and standard deviation over the seeds."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def write_results(lines: Sequence[Line], seeds: Sequence[int], command: str, folder: Path) -> list[Path]:
    """heart.json with every number, heart.md with the table."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "command": command,
        "seeds": list(seeds),
        "rounds": ROUNDS,
        "steps": STEPS,
        "batch": BATCH,
        "settings": [{"name": s.name, "lr": s.lr, "options": dict(s.options)} for s in STUDIES],
        "literature": "github.com/owkin/FLamby flamby/results/results_benchmark_fed_heart_disease",
        "lines": [
            {
                "name": line.name,
                "accuracy": line.accuracy,
                "auc": line.auc,
                "flamby_accuracy": line.literature,
                "verdict": line.verdict,
                "seconds": round(line.seconds, 1),
            }
            for line in lines
        ],
    }
    table, numbers = folder / "heart.md", folder / "heart.json"
    numbers.write_text(json.dumps(document, indent=2) + "\n")
    text = [
        "# Four hospitals, every workflow",
        "",
        f"    {command}",
        "",
        f"{ROUNDS} rounds of {STEPS} steps, batches of {BATCH}, seeds {', '.join(map(str, seeds))}: mean ±",
        "standard deviation of accuracy and AUC on the 254 patients held out, hospitals weighted by theirs;",
        "beside it FLamby's accuracy. See docs/workflows/heart.md.",
        "",
        *HEAD,
        *map(row_of, lines),
        "",
    ]
    table.write_text("\n".join(text))
    return [table, numbers]
