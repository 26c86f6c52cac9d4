# SPDX-License-Identifier: Apache-2.0
"""The jobs of the experiment: the same app with one workflow after the other, each over simulated sites."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from flprov.errors import JobFailed
from flprov.simulator import Simulation, simulate
from flprov.wire.documents import JobDocument, RoundDocument

APP = Path(__file__).resolve().parent
CODE = ("model.py", "pictures.py", "learning.py", "train.py")  # what sites need; the rest stays here
LR = 0.01  # of the sites, as in FLARE's example
# FLARE's example has mu = 0.00001, and these options of FedOpt; README.md says what else was tried.
WORKFLOWS: Mapping[str, Mapping[str, str | float]] = {
    "fedavg": {"type": "fedavg"},
    "fedprox": {"type": "fedprox", "mu": 0.01},
    "fedopt": {"type": "fedopt", "optimizer": "sgd", "lr": 1.0, "momentum": 0.6},
    "fedavg_he": {"type": "fedavg_he"},
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What all runs of one experiment have in common."""

    pictures: str  # the file or folder that they come from
    training: int  # how many
    test: int
    sites: int
    alpha: float
    rounds: int
    epochs: int  # in each round
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """The sites."""
        return [f"site-{number}" for number in range(1, self.sites + 1)]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What one training has come to."""

    name: str
    plan: Plan
    workflow: Mapping[str, str | float]  # empty: the baseline
    accuracy: tuple[float, ...]  # on all test pictures, after each round
    loss: tuple[float, ...]
    seconds: float


def options_of(workflow: str, plan: Plan) -> Mapping[str, str | float]:
    """What stands under `workflow` in job.yml, besides rounds and seed; nothing for a baseline."""
    options = WORKFLOWS.get(workflow, {})
    if workflow == "fedavg_he":  # scales its first round's ciphertexts by it: digits, not secrecy
        return {**options, "samples": plan.training}
    return options


def read_curve(file: Path) -> Curve:
    """What `write_curve` has written."""
    found = json.loads(file.read_text())
    values = {name: tuple(found[name]) for name in ("accuracy", "loss")}
    return Curve(**{**found, **values, "plan": Plan(**found["plan"])})


def write_curve(file: Path, curve: Curve) -> None:
    """Keep it, so that the training need not be repeated."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(curve), indent=1) + "\n")
    partial.replace(file)


def prepare_app(folder: Path, plan: Plan, workflow: str) -> Path:
    """A copy of the app with this workflow in its job.yml; `flprov job submit` would take it as well."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in CODE:
        shutil.copy(APP / name, folder)
    text = (APP / "job.yml").read_text()
    for key, value in {
        "workflow": {**options_of(workflow, plan), "rounds": plan.rounds, "seed": plan.seed},
        "args": {"epochs": plan.epochs, "lr": LR},
        "sites": {"min": plan.sites},
    }.items():
        # JSON is YAML; the number of places is checked, so that a job.yml that was changed is noticed.
        text, places = re.subn(rf"^{key}: .*$", f"{key}: {json.dumps(value)}", text, flags=re.MULTILINE)
        if places != 1:
            raise JobFailed(
                f"{APP / 'job.yml'} has {places} lines that begin with {key!r}; one is to be changed"
            )
    (folder / "job.yml").write_text(text)
    return folder


def run_workflow(
    name: str, plan: Plan, folder: Path, on_round: Callable[[RoundDocument], None], *, label: str = ""
) -> Curve:
    """One job, from its start to its end.

    Args:
        folder: `sites/` in it has a folder for each site; the app and what the job leaves go there too.
        on_round: told of each round that is done.
        label: of the folders, if not the workflow's name.

    Raises:
        JobFailed: it did not complete, or not with every site in every round.
    """
    began, seen = time.monotonic(), 0

    def tell(job: JobDocument) -> None:
        nonlocal seen
        for record in job.rounds[seen:]:
            on_round(record)
        seen = len(job.rounds)

    label = label or name
    results = folder / "jobs" / label
    shutil.rmtree(results, ignore_errors=True)  # of a run that was ended half way
    app = prepare_app(folder / "apps" / label, plan, name)
    data = {site: {"cifar10": folder / "sites" / site} for site in plan.names}
    job, _ = simulate(
        Simulation(app=app, sites=plan.sites, output=results, site_datasets=data), on_change=tell
    )
    if job.state != "completed":
        raise JobFailed(
            f"the job with {name} is {job.state}: {job.reason}", hint=f"its logs are in {results}"
        )
    return Curve(
        name=name,
        plan=plan,
        workflow=options_of(name, plan),
        accuracy=tuple(record.metrics["accuracy"] for record in job.rounds),
        loss=tuple(record.metrics["loss"] for record in job.rounds),
        seconds=round(time.monotonic() - began, 1),
    )
