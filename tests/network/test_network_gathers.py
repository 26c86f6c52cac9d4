# SPDX-License-Identifier: Apache-2.0
"""An app's own workflow that has two tasks under way at once, goes on without one, and outlives kills."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Network, write_app

from flprov.wire import read_tensors

pytestmark = pytest.mark.network

JOB = """
name: two
workflow: {entry: flow:Two, rounds: 2}
model: model:initial
tasks: {left: train:left, right: train:right}
data: [gate]
sites: {min: 2}
"""

FLOW = """
import numpy as np


class Two:
    def run(self, sites, state):
        for state in sites.rounds(state):
            sites.report(f"both tasks of round {state.round} are out")
            key = {"site-1": {"key": np.full(40_000, 3 + state.round, np.float32)}}  # large: a blob
            left = sites.start("left", state.model, to=["site-1"], extra_of=key)
            right = sites.start("right", state.model, to=["site-2"], expects=())
            (update,) = left.updates()
            if state.round == 0:
                right.stop()
            metrics = {"right": float(len(right.updates()))} if state.round else {}
            sites.commit(state.next(model=update.params, metrics=metrics))
"""

# Each waits in each round until the test opens the gate named after its site.
TRAIN = """
import time
from flprov.messages import Update


def wait(site):
    while not (site.data("gate") / site.name).exists():
        time.sleep(0.02)


def left(task, site):
    print("left of round", task.round, flush=True)
    wait(site)
    return Update(params={"w": task.params["w"] + task.extra["key"][0] / 3}, samples=1)


def right(task, site):
    print("right of round", task.round, flush=True)
    assert not task.extra
    wait(site)
    return Update(samples=1, metrics={"seen": 1.0})
"""


@pytest.mark.parametrize("victim", ["nobody", "server", "workflow", "site-1"])
def test_two_tasks_at_once_and_one_withdrawn(make_network, tmp_path, victim):
    network: Network = make_network(2).up()
    admin = network.admin()
    app = write_app(tmp_path / "two", train=TRAIN, flow__py=FLOW)
    (app / "job.yml").write_text(JOB)
    job = admin.submit(app)
    for seen in admin.watch(job.job_id, timeout=60):
        if all(site.state == "training" for site in seen.sites) and seen.doing:
            break
    assert seen.doing == "both tasks of round 0 are out"
    hit(network, victim)
    network.open_gate("site-1")
    for seen in network.admin().watch(job.job_id, timeout=60):
        if seen.rounds_done == 1:  # although site-2 has not answered
            break
    network.open_gate("site-2")
    admin = network.admin()
    done = admin.wait(job.job_id, timeout=60)
    assert (done.state, done.reason) == ("completed", "")
    first, second = done.rounds
    assert (first.spared, [line.site for line in first.contributors]) == (("site-2",), ["site-1"])
    assert (second.spared, [line.site for line in second.contributors]) == ((), ["site-1", "site-2"])
    assert (first.absent, second.absent) == ((), ())
    assert second.metrics == {"right": 1.0}
    admin.download(job.job_id, tmp_path / "out")
    expected = np.zeros(4, np.float32) + np.float32(3) / 3 + np.float32(4) / 3
    model = read_tensors(tmp_path / "out" / "model.safetensors")["w"]
    assert model.tobytes() == expected.astype(np.float32).tobytes()


def hit(network: Network, victim: str) -> None:
    if victim == "workflow":
        import os
        import signal

        (pid,) = [pid for pid in network.job_processes() if b"workflow" in cmdline(pid)]
        os.kill(pid, signal.SIGKILL)
    elif victim != "nobody":
        network.kill(victim)
        network.start(victim)


def cmdline(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()
