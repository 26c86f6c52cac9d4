# SPDX-License-Identifier: Apache-2.0
"""Workflows that remember more than the model, in a real network: clones of their checkpoints, and a site
whose policy clips what leaves it."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Network, write_app

from flprov.wire import read_tensors

pytestmark = pytest.mark.network

# Everything that came with the task is in the answer: a moment or a variate that is lost shows.
REMEMBERING = """
import numpy as np
from flprov.messages import Update


def train(task, site):
    extra = sum(float(np.asarray(array, np.float64).sum()) for array in task.extra.values())
    step = {"site-1": 1, "site-2": 2}[site.name] + extra + task.seed / 2**32
    w = (task.params["w"] * 0.75 + step).astype(np.float32)
    return Update(params={"w": w}, samples=10, metrics={"loss": float(w[0]), "step_sum": 0.5})
"""


@pytest.mark.parametrize("workflow", ["type: scaffold", "type: fedopt, optimizer: yogi"])
def test_a_clone_goes_on_with_what_the_workflow_remembered(shared_network: Network, tmp_path, workflow):
    admin = shared_network.admin()
    job = f"workflow: {{{workflow}, rounds: 5, seed: 3, best: loss, mode: min}}"
    app = write_app(tmp_path / "app", train=REMEMBERING)
    spec = app / "job.yml"
    lines = [line for line in spec.read_text().splitlines() if not line.startswith("workflow:")]
    spec.write_text("\n".join([*lines, job, ""]))
    whole = admin.submit(app)
    assert admin.wait(whole.job_id, timeout=60).state == "completed"
    clone = admin.clone(whole.job_id, from_round=2)
    rest = admin.wait(clone.job_id, timeout=60)
    assert (rest.state, [record.round for record in rest.rounds]) == ("completed", [2, 3, 4])
    assert files_of(admin, clone.job_id, tmp_path / "b") == files_of(admin, whole.job_id, tmp_path / "a")


def files_of(admin, job_id, folder):
    """Both models and what is said of the best one, byte by byte."""
    admin.download(job_id, folder)
    names = ("model.safetensors", "best.safetensors", "best.json")
    return {name: (folder / name).read_bytes() for name in names}


CLIPPED = "filters: {result: [{type: clip_norm, max_norm: 1}]}\n"
STEADY = """
import numpy as np
from flprov.messages import Update, UpdateKind


def train(task, site):
    list(task.extra.items())
    away = {"site-1": 100, "site-2": 2}[site.name]
    w = np.full(4, away, np.float32)
    return Update(params={"w": w}, kind=UpdateKind.DIFF, samples=1, metrics={"step_sum": 0.5})
"""


def test_scaffold_at_a_site_whose_policy_clips_follows_from_what_left_it(shared_network: Network, tmp_path):
    network = shared_network
    policy = network.local("site-1") / "policy.yml"
    before = policy.read_text()
    policy.write_text(before + CLIPPED)
    try:
        admin = network.admin()
        app = write_app(tmp_path / "clipped", train=STEADY)
        spec = app / "job.yml"
        spec.write_text(spec.read_text().replace("{type: fedavg, rounds: 3}", "{type: scaffold, rounds: 2}"))
        job = admin.submit(app)
        done = admin.wait(job.job_id, timeout=60)
        assert done.state == "completed", done.reason
        admin.download(job.job_id, tmp_path / "out")
    finally:
        policy.write_text(before)
    found = read_tensors(tmp_path / "out" / "model.safetensors")["w"]
    # 100 in each of four numbers has a norm of 200 and leaves as 0.5; the mean with 2 is 1.25, twice.
    np.testing.assert_allclose(found, [2.5] * 4, rtol=1e-6)
