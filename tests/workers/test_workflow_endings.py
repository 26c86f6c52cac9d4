# SPDX-License-Identifier: Apache-2.0
"""What a workflow's process hands over at the end: the last model, the best one, why it ended early."""

import json
import sys

import numpy as np
import pytest
from parents import job
from servers import FakeServer, Killed

from flprov.jobs import Workflow
from flprov.messages import Update
from flprov.wire import encode_tensors, read_tensors
from flprov.workers.workflow_main import run_workflow

ACCURACY = [0.5, 0.75, 0.7, 0.6, 0.9, 0.9]
MODEL = {"weights.safetensors": encode_tensors({"w": np.float32([2.0])}, {"format": "pt"})}
CUSTOM = """
class Count:
    def run(self, sites, state):
        for state in sites.rounds(state):
            (update,) = sites.train(state.model, to=["a"])
            sites.commit(state.next(model=update.params, metrics={"auc": update.metrics["accuracy"]}))
"""


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("flprov", "numpy")):
            del sys.modules[name]


def make(tmp_path, *, saved=None, die_at=None, folder="job", **rule):
    def answer(broadcast, site, model):
        number = broadcast.round
        metrics = {"accuracy": ACCURACY[number], "step_sum": 0.5}
        return Update(params={"w": np.float32([number])}, samples=1, metrics=metrics)

    spec = job("train.py", model="weights.safetensors", workflow=Workflow(rounds=6, **rule))
    server = FakeServer(tmp_path / folder, spec, answer, saved=saved, die_at=die_at)
    for name, data in {**MODEL, "count.py": CUSTOM.encode()}.items():
        (server.folder / "app" / name).write_bytes(data)
    return server


def run(tmp_path, **rule):
    server = make(tmp_path, **rule)
    return run_workflow(server, server.folder), server


def best_of(server):
    return json.loads(server.results["best.json"]), read_tensors(server.results["best.safetensors"])[
        "w"
    ].tolist()


def test_without_a_metric_there_is_the_last_model_alone(tmp_path):
    status, server = run(tmp_path)
    assert (status, set(server.results), server.reason) == (0, {"model.safetensors"}, "")


def test_the_best_model_lies_beside_the_last_one(tmp_path):
    status, server = run(tmp_path, best="accuracy")
    assert status == 0
    assert best_of(server) == ({"metric": "accuracy", "mode": "max", "round": 4, "value": 0.9}, [4.0])
    assert read_tensors(server.results["model.safetensors"])["w"].tolist() == [5.0]
    assert server.reason == ""


@pytest.mark.parametrize(
    "rule",
    [
        {"best": "accuracy"},
        {"best": "auc", "type": None, "entry": "count:Count"},
        {"best": "accuracy", "type": "fedopt", "options": {"optimizer": "adam"}},
        {"best": "accuracy", "type": "scaffold"},
    ],
    ids=["fedavg", "custom", "fedopt", "scaffold"],
)
def test_patience_ends_every_workflow_early_and_says_so(tmp_path, rule):
    status, server = run(tmp_path, patience=2, **rule)
    assert status == 0, server.failure
    assert len(server.saved) == 4
    assert best_of(server)[0]["round"] == 1
    assert server.reason.startswith(f"ended early, after 4 rounds: {rule['best']} has not become better")


@pytest.mark.parametrize("die_at", range(3, 27, 3))
def test_a_kill_on_the_way_to_an_early_end_does_not_show(tmp_path, die_at):
    rule = {"best": "accuracy", "patience": 2}
    _, whole = run(tmp_path, **rule)
    killed = make(tmp_path, die_at=die_at, folder="killed", **rule)
    with pytest.raises(Killed):
        run_workflow(killed, killed.folder)
    saved = (killed.saved[-1], len(killed.saved)) if killed.saved else None
    _, resumed = run(tmp_path, saved=saved, folder="again", **rule)
    assert killed.saved + resumed.saved == whole.saved
    assert (resumed.results, resumed.reason) == (whole.results, whole.reason)


def test_a_restart_after_the_last_commit_only_hands_over(tmp_path):
    _, whole = run(tmp_path, best="accuracy", patience=2)
    _, again = run(tmp_path, best="accuracy", patience=2, saved=(whole.saved[-1], 4), folder="again")
    assert (again.saved, again.broadcasts) == ([], [])
    assert (again.results, again.reason) == (whole.results, whole.reason)


def test_a_metric_that_no_round_reports_fails_the_job_with_the_names_there_are(tmp_path):
    status, server = run(tmp_path, best="acuracy")
    assert status == 1
    assert server.failure.message == (
        "workflow.best: round 1 reports no metric 'acuracy' (did you mean 'accuracy'?)"
    )
    assert server.saved == []


@pytest.mark.parametrize("kind", ["fedopt", "scaffold", "fedavg"])
def test_a_clone_goes_on_with_all_that_the_workflow_remembers(tmp_path, kind):
    """`job clone --from-round 2` hands the saved state to a new workflow: moments, control variates, best."""
    rule = {"type": kind, "best": "accuracy"}
    _, whole = run(tmp_path, **rule)
    _, clone = run(tmp_path, saved=(whole.saved[1], 2), folder="clone", **rule)
    assert clone.saved == whole.saved[2:]
    if kind != "fedavg":
        assert whole.saved[1].read().tensors


def test_a_checkpoint_of_another_workflow_is_a_model_to_start_from(tmp_path):
    _, whole = run(tmp_path, type="fedavg")
    for kind in ("fedopt", "scaffold", "cyclic"):
        status, clone = run(tmp_path, saved=(whole.saved[1], 2), folder=f"as-{kind}", type=kind)
        assert (status, len(clone.saved)) == (0, 4), clone.failure


class SlowServer(FakeServer):
    """Its disk has a state when it must: with the answers to the next task, or for the end."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.order = []

    def send(self, message):
        self.order.append(message.WhichOneof("body"))
        super().send(message)

    def receive(self):
        self.order.append("waits")
        return super().receive()


def test_the_next_task_is_on_its_way_before_the_state_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "FakeServer", SlowServer)
    status, server = run(tmp_path)
    assert status == 0
    after = [server.order[place + 1] for place, said in enumerate(server.order) if said == "close"]
    assert after == ["broadcast"] * 5 + ["waits"]  # the results follow a state that is saved
    assert server.order[-1] == "finished"
