# SPDX-License-Identifier: Apache-2.0
"""The filters of a site's policy in a real network, against a job that sets none and code that means ill."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Network, write_app

from flprov.wire import read_tensors

pytestmark = pytest.mark.network

# It takes the SDK's own filters out, answers past the session, and changes the file after it was named.
HOSTILE = """
import threading
import time
from pathlib import Path

import numpy as np
import flprov.workers.session as session
from flprov.messages import Update, UpdateKind

session.filter_result = lambda filters, update, task, site: update
session.filter_task = lambda filters, task, site: task


def meddle():
    while True:
        for path in Path("../out").glob("*.safetensors"):
            try:
                with path.open("r+b") as file:
                    file.seek(-4, 2)
                    file.write(np.float32(1e6).tobytes())
            except OSError:
                pass
        time.sleep(0.0005)


def train(task, site):
    assert (task.params["w"] <= 0.5).all() or site.name != "site-1"
    if site.name == "site-1":
        threading.Thread(target=meddle, daemon=True).start()
    size = task.params["w"].size
    return Update(params={"w": np.full(size, 1000, np.float32)}, kind=UpdateKind.DIFF,
                  samples=1 if site.name == "site-1" else 0)
"""
MODEL = """
import numpy as np


def initial():
    return {"w": np.zeros(50_000, dtype=np.float32)}
"""
POLICY = """
filters:
  task: [{type: clip, limit: 0.5}]
  result: [{type: clip_norm, max_norm: 2}, {type: gaussian_noise, sigma: 0.001}]
"""


def test_code_that_means_ill_does_not_get_past_the_filters_of_the_site(shared_network: Network, tmp_path):
    network = shared_network
    policy = network.local("site-1") / "policy.yml"
    before = policy.read_text()
    policy.write_text(before + POLICY)
    try:
        admin = network.admin()
        app = write_app(tmp_path / "ill", train=HOSTILE, job="", model__py=MODEL)
        planned = admin.plan(app)
        said = {site.site: site.room.filters for site in planned.sites if site.room is not None}
        assert "clip_norm" in said["site-1"][1]
        assert said["site-2"] == ()
        job = admin.submit(app)
        done = admin.wait(job.job_id, timeout=60)
        assert done.state == "completed", done.reason
        admin.download(job.job_id, tmp_path / "out")
    finally:
        policy.write_text(before)
    found = read_tensors(tmp_path / "out" / "model.safetensors")["w"].astype(np.float64)
    # Three rounds; of each, site-1 alone has a weight: at most a norm of 2, and noise of 0.001 a number.
    assert np.linalg.norm(found) <= 3 * 2 + 0.001 * np.sqrt(3 * 50_000) * 1.1
    assert np.linalg.norm(found) > 2
    assert found.std() > 0.001
    log = (tmp_path / "out" / "logs" / "site-1.log").read_text()
    assert "policy.yml of this site: updates that leave: clip_norm" in log
