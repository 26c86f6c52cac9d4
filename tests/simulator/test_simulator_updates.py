# SPDX-License-Identifier: Apache-2.0
"""The updates of simulated sites: checked where they are made, and in files that are written over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flprov._base import LEAST_SPARE, is_spare
from flprov.server import ScratchBlobs
from flprov.simulator import Simulation, simulate
from flprov.wire import read_tensors

LARGE = LEAST_SPARE // 4 + 1000  # numbers of a tensor whose file is worth to be written over

FUNCTION = """
name: spoilt
workflow: {type: fedavg, rounds: 1}
model: train:initial
tasks: train:train
"""
TRAIN = f"""
import numpy as np
from flprov.messages import Update


def initial():
    return {{"w": np.zeros({LARGE}, dtype=np.float32)}}


def spoil(w, site):
    w = w + np.float32(1)
    if site == "site-2":
        w[7] = np.nan
    return {{"w": w[1:] if site == "site-3" else w}}


def train(task, site):
    return Update(params=spoil(task.params["w"], site.name), samples=1)
"""
LOOP = """
import flprov.client as fl
from train import spoil

fl.init()
while fl.is_running():
    model = fl.receive()
    fl.send(fl.Model(params=spoil(model.params["w"], fl.site_name()), samples=1))
"""
# Keeps every update of every round, and looks at all of them in each.
KEEPER = """
from flprov.sdk import weighted_mean


class Keeper:
    def run(self, sites, state):
        kept = []
        for state in sites.rounds(state):
            updates = sites.train(state.model)
            kept += [(state.round, update) for update in updates]
            for number, update in kept:
                assert (update.params["w"] == 100 * number + int(update.site[5:])).all()
            sites.commit(state.next(model=weighted_mean(updates, state.model)))
"""
COUNTING = f"""
import numpy as np
from flprov.messages import Update


def train(task, site):
    number = 100 * task.round + int(site.name[5:])
    return Update(params={{"w": np.full({LARGE}, number, dtype=np.float32)}}, samples=1)
"""


def make_app(folder: Path, **files: str) -> Path:
    """An app with these files; `job` is its job.yml."""
    folder.mkdir()
    for name, text in files.items():
        (folder / ("job.yml" if name == "job" else f"{name}.py")).write_text(text)
    return folder


@pytest.mark.parametrize("script", [False, True])
def test_an_update_that_does_not_fit_is_refused_wherever_it_is_checked(tmp_path: Path, script: bool):
    job = FUNCTION.replace("train:train", "loop.py") if script else FUNCTION
    app = make_app(tmp_path / "app", job=job, train=TRAIN, loop=LOOP)
    done, _ = simulate(Simulation(app=app, sites=3, output=tmp_path / "out", min_sites=1))
    assert done.state == "degraded"
    (first,) = done.rounds
    assert [line.site for line in first.contributors] == ["site-1"]
    assert {lack.site: lack.reason for lack in first.refused} == {
        "site-2": "tensor 'w' holds NaN or infinity",
        "site-3": f"tensor 'w' is F32[{LARGE - 1}], the model's is F32[{LARGE}]",
    }
    causes = json.loads((tmp_path / "out" / "record.json").read_text())["causes"]
    assert {cause["traceback"] for cause in causes} == {""}  # refused by us; the job's code has not failed
    assert (read_tensors(tmp_path / "out" / "model.safetensors")["w"] == 1).all()


@pytest.mark.parametrize("workflow", ["type: fedavg", "entry: 'keeper:Keeper'"])
def test_files_are_written_over_and_no_update_that_is_kept_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workflow: str
):
    lent = []

    class Watched(ScratchBlobs):
        def lend(self, folder: Path) -> None:
            super().lend(folder)
            lent.append(any(is_spare(path.name) for path in folder.iterdir()))

    monkeypatch.setattr("flprov.simulator.job.ScratchBlobs", Watched)
    job = f"name: counting\nworkflow: {{{workflow}, rounds: 5}}\ntasks: train:train\n"
    app = make_app(tmp_path / "app", job=job, train=COUNTING, keeper=KEEPER)
    done, _ = simulate(Simulation(app=app, sites=4, output=tmp_path / "out", workers=2))
    assert (done.state, done.reason) == ("completed", "")
    assert (read_tensors(tmp_path / "out" / "model.safetensors")["w"] == 402.5).all()
    assert any(lent) == (workflow == "type: fedavg")


# ---- the files -------------------------------------------------------------------------------


@pytest.fixture
def blobs(tmp_path: Path) -> ScratchBlobs:
    return ScratchBlobs(tmp_path / "blobs")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder that a process of sites writes its updates to."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def use(blobs: ScratchBlobs, out: Path, size: int = LEAST_SPARE) -> int:
    """Send an update through the workflow's folder; the inode of its file."""
    (out / "update").write_bytes(bytes(size))
    inode = (out / "update").stat().st_ino
    target = out.parent / "in"
    blobs.link(blobs.park(out / "update").digest, target)
    blobs.unlink(target)
    assert not target.exists()
    return inode


def spares(out: Path) -> list[int]:
    return [path.stat().st_ino for path in out.iterdir() if is_spare(path.name)]


def test_a_used_file_is_lent_once(blobs: ScratchBlobs, out: Path):
    inode = use(blobs, out)
    blobs.lend(out)
    blobs.lend(out)
    assert spares(out) == [inode]


def test_a_file_is_not_lent_while_somebody_looks_into_it(blobs: ScratchBlobs, out: Path):
    (out / "update").write_bytes(bytes(LEAST_SPARE))
    target = out.parent / "in"
    blobs.link(blobs.park(out / "update").digest, target)
    mapped = np.memmap(target, mode="r")
    blobs.unlink(target)
    blobs.lend(out)
    assert spares(out) == []
    del mapped
    blobs.lend(out)
    assert len(spares(out)) == 1


def test_what_is_small_or_was_used_long_ago_is_removed(blobs: ScratchBlobs, out: Path):
    use(blobs, out, size=LEAST_SPARE - 1)
    blobs.lend(out)
    assert spares(out) == []
    use(blobs, out)
    for _ in range(3):
        blobs.end_round()
    blobs.lend(out)
    assert spares(out) == []
    assert list((out.parent / "blobs" / "used").iterdir()) == []
