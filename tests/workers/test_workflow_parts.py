# SPDX-License-Identifier: Apache-2.0
"""A state in parts: a large model is written once, and every task, state and result names that one file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from parents import job
from servers import FakeServer, Killed, Saved

from flprov.blobs import digest_of
from flprov.jobs import Filters, Workflow
from flprov.messages import Update
from flprov.sdk import State, encode_state
from flprov.wire import read_tensors
from flprov.workers.workflow_main import run_workflow

START = """
import numpy as np
def large():
    return {"w": np.zeros(80_000, np.float32), "n": np.array(5)}
def halve(task, site):
    from dataclasses import replace
    return replace(task, params={**task.params, "w": task.params["w"] / 2})
"""
LOSSES = [3.0, 1.0, 2.0, 4.0]
TASKS = {"train": "t:f", "evaluate": "t:g"}


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("start", None)


def one_more(broadcast, site, model):
    """Sites add one; the second round is the best."""
    metrics = {"loss": LOSSES[broadcast.round]}
    if broadcast.name == "evaluate":
        return Update(samples=1, metrics=metrics)
    return Update(params={**model, "w": model["w"] + 1}, samples=1, metrics=metrics)


def run(tmp_path, *, folder="job", tasks="train.py", saved=None, die_at=None, answer=one_more, **fields):
    fields.setdefault("workflow", Workflow(rounds=4))
    server = FakeServer(
        tmp_path / folder, job(tasks, model="start:large", **fields), answer, saved=saved, die_at=die_at
    )
    (server.folder / "app" / "start.py").write_text(START)
    return server, run_workflow(server, server.folder)


def named(server):
    """How each broadcast named its model."""
    return [broadcast.model.WhichOneof("where") for broadcast, _ in server.broadcasts]


def test_each_model_is_written_once_and_then_named(tmp_path):
    server, status = run(tmp_path)
    assert status == 0
    assert named(server) == ["file", "digest", "digest", "digest"]
    assert (
        len(server.taken) == 5
    )  # the first model, and the one of each round; what else a state holds is tiny
    assert [digest_of(saved.model) for saved in server.saved[:3]] == [
        broadcast.model.digest for broadcast, _ in server.broadcasts[1:]
    ]
    assert server.results["model.safetensors"] == server.saved[-1].model
    assert list((server.folder / "out").iterdir()) == []


def test_a_model_that_is_evaluated_before_its_commit_is_written_once_too(tmp_path):
    server, status = run(tmp_path, tasks=TASKS, workflow=Workflow(rounds=2))
    assert status == 0
    assert named(server) == ["file", "file", "digest", "file"]  # train and evaluate, twice
    assert len(server.taken) == 3


def test_the_best_model_is_one_that_is_there_already(tmp_path):
    server, status = run(tmp_path, workflow=Workflow(rounds=4, best="loss", mode="min"))
    assert status == 0
    assert len(server.taken) == 5
    assert [saved.best for saved in server.saved] == [
        server.saved[0].model, *[server.saved[1].model] * 3
    ]  # fmt: skip
    assert server.results["best.safetensors"] == server.saved[1].model
    assert [saved.read().best.round for saved in server.saved] == [0, 1, 1, 1]


def test_a_filter_that_changes_the_model_has_it_written(tmp_path):
    filters = Filters(task_server=({"type": "start:halve"},))
    server, status = run(tmp_path, filters=filters, workflow=Workflow(rounds=2))
    assert status == 0
    assert named(server) == ["file", "file"]
    assert [read_tensors(data)["w"][0] for _, data in server.broadcasts] == [0.0, 0.5]
    assert [saved.read().model["w"][0] for saved in server.saved] == [1.0, 1.5]


def test_killed_at_any_step_it_goes_on_with_the_parts_and_asks_the_same(tmp_path):
    fields = {"tasks": TASKS, "workflow": Workflow(rounds=3, best="loss", mode="min")}
    whole, _ = run(tmp_path, folder="whole", **fields)
    asked = [broadcast.task_id for broadcast, _ in whole.broadcasts]
    for die_at in range(1, whole.steps, 3):
        killed = dying(tmp_path, die_at, **fields)
        saved = (killed.saved[-1], len(killed.saved)) if killed.saved else None
        resumed, status = run(tmp_path, folder=f"job{die_at}", saved=saved, **fields)
        assert status == 0
        assert killed.saved + resumed.saved == whole.saved, die_at
        assert resumed.results == whole.results, die_at
        again = [broadcast.task_id for broadcast, _ in resumed.broadcasts]
        assert again == asked[len(asked) - len(again) :], die_at
        if saved is not None and resumed.broadcasts:
            assert named(resumed)[0] == "digest"


def dying(tmp_path, die_at, **fields):
    server = FakeServer(
        tmp_path / f"job{die_at}",
        job(fields["tasks"], model="start:large", workflow=fields["workflow"]),
        one_more,
        die_at=die_at,
    )
    (server.folder / "app" / "start.py").write_text(START)
    with pytest.raises(Killed):
        run_workflow(server, server.folder)
    return server


def test_a_state_of_an_earlier_version_has_its_model_inside(tmp_path):
    whole, _ = run(tmp_path, folder="whole")
    second = whole.saved[1].read()
    old = encode_state(State(round=2, model=second.model, metrics=second.metrics))
    server, status = run(tmp_path, saved=(Saved(old), 2))
    assert status == 0
    assert [digest_of(saved.model) for saved in server.saved] == [
        digest_of(saved.model) for saved in whole.saved[2:]
    ]
    asked = [broadcast.task_id for broadcast, _ in whole.broadcasts]
    assert [broadcast.task_id for broadcast, _ in server.broadcasts] == asked[2:]


def test_a_controller_that_changes_its_model_in_place_commits_what_it_has(tmp_path):
    own = """
from flprov.sdk import weighted_mean
class Own:
    def run(self, sites, state):
        for state in sites.rounds(state):
            model = state.model
            model["w"][0] = 100 + state.round
            mean = weighted_mean(sites.train(model), model)
            mean["w"][1] = -1
            sites.commit(state.next(model=mean))
"""
    spec = job("train.py", model="start:large", workflow=Workflow(type=None, entry="own:Own", rounds=2))
    server = FakeServer(tmp_path / "job", spec, one_more)
    (server.folder / "app" / "start.py").write_text(START)
    (server.folder / "app" / "own.py").write_text(own)
    assert run_workflow(server, server.folder) == 0
    sys.modules.pop("own")
    assert [read_tensors(data)["w"][:2].tolist() for _, data in server.broadcasts] == [[100, 0], [101, -1]]
    assert [saved.read().model["w"][:2].tolist() for saved in server.saved] == [[101, -1], [102, -1]]


def test_small_models_stay_inside_the_state(tmp_path):
    spec = job("train.py", workflow=Workflow(rounds=1))

    def answer(broadcast, site, model):
        return Update(params={"w": np.ones(3, np.float32)}, samples=1)

    server = FakeServer(tmp_path, spec, answer)
    assert run_workflow(server, server.folder) == 0
    assert (server.saved[0].model, server.taken) == (None, [])
    assert server.saved[0].read().model["w"].tolist() == [1, 1, 1]


# ---- memory, in the kernel's own accounting --------------------------------------------------------

WORKER = Path(__file__).parent / "large_workflow.py"


@pytest.mark.slow
@pytest.mark.parametrize(("workflow", "megabytes"), [("fedavg", 256), ("fedopt", 128)])
def test_a_workflow_takes_no_memory_for_its_models(tmp_path, workflow, megabytes):
    done = subprocess.run(
        [sys.executable, WORKER, tmp_path, workflow, str(megabytes)],
        capture_output=True,
        text=True,
        check=True,
    )
    before, peak, rounds = map(int, done.stdout.split())
    assert rounds == 2
    assert peak - before < 40 << 20  # of many models of 128 or 256 MB
