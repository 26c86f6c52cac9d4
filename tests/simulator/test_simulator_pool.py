# SPDX-License-Identifier: Apache-2.0
"""Many sites in few processes: the same bits as in a process each, and one site's end is not another's."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from flprov.errors import Misuse
from flprov.jobs import JobSpec
from flprov.simulator import Simulation, simulate
from flprov.simulator.placing import MOST_SCRIPTS, place
from flprov.wire import read_tensors
from flprov.workers.belongings import AppModules, Belongings, Generators

JOB = """
name: many
workflow: {type: fedavg, rounds: 3}
model: train:initial
tasks: {train: "train:Trainer", evaluate: "train:measure"}
"""
# Keeps something in a module's variable, in an instance and in numpy's generator, as people do.
TRAIN = """
import os
import sys

import numpy as np

from flprov.messages import Update

np.random.seed(7)
MINE = {}


def initial():
    return {"w": np.zeros(1000, dtype=np.float32)}


class Trainer:
    def __init__(self):
        self.rounds = 0

    def __call__(self, task, site):
        MINE.setdefault("site", site.name)
        assert MINE["site"] == site.name and os.getcwd() == str(site.folder)
        self.rounds += 1
        assert self.rounds == task.round + 1
        print(f"{site.name} in round {task.round}")
        step = np.random.standard_normal(1000).astype(np.float32) * np.float32(int(site.name[5:]))
        return Update(params={"w": task.params["w"] + step}, samples=int(site.name[5:]))


def measure(task, site):
    return Update(samples=1, metrics={"w": float(task.params["w"].sum())})
"""
# Site 2 ends its process, site 3 only says that it wants to.
ENDS = """
import os
import sys

import numpy as np

from flprov.messages import Update


def initial():
    return {"w": np.zeros(4, dtype=np.float32)}


def train(task, site):
    if site.name == "site-2" and task.round == 1:
        os._exit(7)
    if site.name == "site-3" and task.round == 1:
        sys.exit(8)
    return Update(params={"w": task.params["w"] + np.float32(1)}, samples=1)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return make_app(tmp_path / "many", JOB, TRAIN)


def make_app(folder: Path, job: str, train: str) -> Path:
    folder.mkdir()
    (folder / "job.yml").write_text(job)
    (folder / "train.py").write_text(train)
    return folder


def run(app: Path, output: Path, sites: int, **more: object):
    return simulate(Simulation(app=app, sites=sites, output=output, **more))[0]


def test_sites_that_share_a_process_compute_the_bits_of_sites_that_do_not(app, tmp_path):
    alone = run(app, tmp_path / "alone", 4, workers=4)
    shared = run(app, tmp_path / "shared", 4, workers=1)
    assert (alone.state, shared.state) == ("completed", "completed"), (alone.reason, shared.reason)
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "shared")]
    assert found[0] == found[1]
    assert [record.metrics for record in alone.rounds] == [record.metrics for record in shared.rounds]
    log = (tmp_path / "shared" / "logs" / "site-3.log").read_text()
    assert log.splitlines() == [f"site-3 in round {number}" for number in range(3)]


def test_two_hundred_sites_take_part_in_each_round(app, tmp_path):
    done = run(app, tmp_path / "out", 200, workers=2)
    assert done.state == "completed", done.reason
    assert [len(record.contributors) for record in done.rounds] == [200] * 3
    # Each site draws the same numbers, times its own; so the mean is the weighted mean of the site numbers.
    np.random.seed(7)
    steps = sum(np.random.standard_normal(1000) for _ in range(3))
    factor = sum(number * number for number in range(1, 201)) / sum(range(1, 201))
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(model["w"], steps * factor, rtol=1e-4, atol=1e-2)
    assert len(list((tmp_path / "out" / "logs").glob("site-*.log"))) == 200


def test_a_site_that_ends_its_process_fails_alone(tmp_path):
    ends = make_app(
        tmp_path / "ends", JOB.replace("Trainer", "train").replace(', evaluate: "train:measure"', ""), ENDS
    )
    done = run(ends, tmp_path / "out", 5, workers=1, min_sites=2)
    assert done.state == "degraded"
    assert [len(record.contributors) for record in done.rounds] == [5, 3, 5]
    missing = {one.site: one.reason for one in done.rounds[1].absent}
    assert sorted(missing) == ["site-2", "site-3"]
    assert "status 7" in missing["site-2"] or "7" in missing["site-2"]
    assert "sys.exit(8)" in missing["site-3"]
    assert read_tensors(tmp_path / "out" / "model.safetensors")["w"].tolist() == [3.0] * 4


def test_few_sites_have_a_process_each_and_many_share(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    spec = JobSpec(name="a", tasks={"train": "train:train"})
    names = [f"site-{number}" for number in range(1, 21)]
    assert place(spec, names[:8], None) == [[name] for name in names[:8]]
    assert place(spec, names, None) == [names[0::2], names[1::2]]
    assert place(spec, names[:2], 5) == [["site-1"], ["site-2"]]
    assert [len(sites) for sites in place(spec, names, 3)] == [7, 7, 6]


def test_a_script_needs_a_process_for_each_site_and_says_so_beforehand():
    spec = JobSpec(name="a", tasks={"train": "train.py"})
    assert place(spec, ["a", "b"], None) == [["a"], ["b"]]
    with pytest.raises(Misuse, match="2 sites run a script, and 1 workers"):
        place(spec, ["a", "b"], 1)
    with pytest.raises(Misuse, match=f"at most {MOST_SCRIPTS}"):
        place(spec, [f"site-{number}" for number in range(MOST_SCRIPTS + 1)], None)


def test_what_a_site_keeps_in_modules_and_generators_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "kept_by_site.py").write_text("KEPT = []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = AppModules(tmp_path)
    monkeypatch.setattr("sys.meta_path", [modules, *sys.meta_path])
    drawn = {}
    generators = Generators()
    first, second = Belongings(modules, generators), Belongings(modules, generators)
    for turn in range(2):
        for name, belongings in (("first", first), ("second", second)):
            with belongings.in_place():
                import kept_by_site

                if not turn:
                    random.seed(3)
                    np.random.seed(3)
                kept_by_site.KEPT.append(name)
                assert [name] * (turn + 1) == kept_by_site.KEPT
                drawn[name, turn] = random.random(), np.random.random()
            assert "kept_by_site" not in sys.modules
    assert drawn["first", 0] == drawn["second", 0]
    assert drawn["first", 1] == drawn["second", 1] != drawn["first", 0]


def test_sites_that_have_not_drawn_yet_do_not_draw_the_same(tmp_path):
    generators = Generators()
    sites = [Belongings(AppModules(tmp_path), generators) for _ in range(3)]
    for _ in range(2):  # nobody draws
        for belongings in sites:
            with belongings.in_place():
                pass
    drawn = []
    for belongings in sites:
        with belongings.in_place():
            drawn.append((random.random(), np.random.random()))
    for which in (0, 1):
        assert len({numbers[which] for numbers in drawn}) == 3
