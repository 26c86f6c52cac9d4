# SPDX-License-Identifier: Apache-2.0
"""An app run in this process: one site with a scripted parent, or FedAvg by hand over functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flprov._base import canonical_json
from flprov.jobs import JobSpec, load_job
from flprov.messages import Site, Task, Tensors, Update
from flprov.sdk import (
    as_tensors,
    build_executor,
    load_entry,
    load_model,
    mean_metrics,
    run_executor,
    weighted_mean,
)
from flprov.wire import encode_tensors, pb
from flprov.workers.site_main import run_site

ROOT = Path(__file__).resolve().parents[2]


class Parent:
    """The other end of a site's process: hands out tasks in turn; a new model is the next task's."""

    def __init__(self, spec: JobSpec, *, site: str, tasks: Sequence[str], model: bytes) -> None:
        start = pb.StartSite(job_id="job", site=site, spec=canonical_json(spec))
        self._messages = [pb.ToWorker(start_site=start)]
        self._tasks = list(tasks)
        self._model = model
        self._asked = ""  # the task that waits for its answer
        self.updates: list[pb.UpdateMessage] = []
        self.failures: list[pb.Failure] = []

    def outlive(self, greeting: Callable[[], Iterable[pb.FromWorker]]) -> None:
        """This one never comes back: there is nobody to greet."""

    def receive(self) -> pb.ToWorker:
        if self._messages:
            return self._messages.pop()
        if not self._tasks:
            return pb.ToWorker(quit=pb.Quit())
        name, number = self._tasks.pop(0), len(self.updates)
        self._asked = name
        order = pb.TaskOrder(
            job_id="job",
            task_id=str(number),
            name=name,
            round=number,
            rounds=10,
            expects="full,diff" if name == "train" else "",
            model=pb.Payload(inline=self._model),
        )
        return pb.ToWorker(task=order)

    def send(self, message: pb.FromWorker) -> None:
        body = message.WhichOneof("body")
        if body == "failure":
            self.failures.append(message.failure)
        if body == "answer" and message.answer.WhichOneof("outcome") == "failure":
            self.failures.append(message.answer.failure)
        elif body == "answer":
            self.updates.append(message.answer.update)
            if self._asked == "train":
                self._model = message.answer.update.tensors.inline


def run_script(name: str, folder: Path, *, site: str, tasks: Sequence[str]) -> list[pb.UpdateMessage]:
    """What an example's script answers to these tasks at this site; needs the fixture `own_modules`."""
    app = folder / "app"
    app.symlink_to(ROOT / "examples" / name)
    for part in ("in", "out", "work"):
        (folder / part).mkdir()
    spec = load_job(app)
    parent = Parent(spec, site=site, tasks=tasks, model=first_model(spec, app))
    status = run_site(parent, folder)  # type: ignore[arg-type]
    assert (status, parent.failures) == (0, [])
    return parent.updates


def first_model(spec: JobSpec, app: Path) -> bytes:
    """What the workflow's process would send in round 0."""
    if spec.model is None:
        return encode_tensors({}, {})
    sys.path.insert(0, str(app))
    tensors, form = load_model(spec.model, app)
    return encode_tensors(tensors, {"format": form})


def average(spec: JobSpec, app: Path, sites: Mapping[str, Path], rounds: int) -> list[dict[str, float]]:
    """FedAvg over functions of an app that is on sys.path; each round's metrics.

    Args:
        sites: name -> the file of its dataset, which the app calls by its own name.
    """
    functions = {
        name: build_executor(load_entry(text, name), spec.args, name) for name, text in spec.tasks.items()
    }
    places = [Site(name=n, job_id="job", folder=app, datasets={spec.name: path}) for n, path in sites.items()]
    assert spec.model is not None
    model, _ = load_model(spec.model, app)

    def ask(name: str, number: int, tensors: Tensors) -> list[Update]:
        task = Task(name=name, params=tensors, round=number, rounds=rounds, job_id="job")
        answers = [(place.name, run_executor(functions[name], task, place, name)) for place in places]
        return [replace(update, site=site, params=as_tensors(update.params)) for site, update in answers]

    found = []
    for number in range(rounds):
        model = weighted_mean(ask("train", number, model), model)
        found.append(mean_metrics(ask("evaluate", number, model)))
    return found
