# SPDX-License-Identifier: Apache-2.0
"""Agents, shims and workers killed while a job trains: its processes outlive their agent, and what somebody
else has killed is started again. The model has the same bits as if nothing had been.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from harness import GATED, Network, write_app
from test_network_faults import in_round_1, model_of, wait_for

from flprov.admin import Admin

pytestmark = pytest.mark.network


def shim_of(network: Network, name: str, job_id: str) -> int:
    path = network.local(name) / "state" / "jobs" / job_id / "shim.json"
    return int(json.loads(path.read_bytes())["pid"])


def worker_of(shim: int) -> int:
    [child] = Path(f"/proc/{shim}/task/{shim}/children").read_text().split()
    return int(child)


def undisturbed(admin: Admin, network: Network, app: Path, folder: Path) -> bytes:
    """The model of a run with all gates open."""
    job = admin.submit(app)
    assert admin.wait(job.job_id, timeout=60).state == "completed"
    return model_of(network, job.job_id, folder)


def verify_ended_well(network: Network, admin: Admin, job_id: str, app: Path, folder: Path) -> None:
    done = admin.wait(job_id, timeout=60)
    assert (done.state, done.rounds_done) == ("completed", 3), done
    assert all(len(record.contributors) == 2 for record in done.rounds)
    disturbed = model_of(network, job_id, folder / "disturbed")
    assert undisturbed(admin, network, app, folder / "calm") == disturbed
    assert network.job_processes() == []


def test_an_agent_that_is_killed_finds_its_worker_again(network: Network, tmp_path):
    admin = network.admin()
    app = write_app(tmp_path / "gated", train=GATED)
    job = admin.submit(app)
    wait_for(admin, job.job_id, in_round_1)
    shim = shim_of(network, "site-2", job.job_id)
    worker = worker_of(shim)
    network.kill("site-2")
    network.open_gate("site-1")
    network.start("site-2")
    assert shim_of(network, "site-2", job.job_id) == shim
    assert worker_of(shim) == worker
    network.open_gate("site-2")
    verify_ended_well(network, admin, job.job_id, app, tmp_path)


def test_what_a_worker_answers_while_its_agent_is_away_counts(network: Network, tmp_path):
    admin = network.admin()
    app = write_app(tmp_path / "gated", train=GATED)
    job = admin.submit(app)
    wait_for(admin, job.job_id, in_round_1)
    network.kill("site-2")
    network.open_gate("site-2")
    network.open_gate("site-1")
    network.start("site-2")
    verify_ended_well(network, admin, job.job_id, app, tmp_path)


def wait_in_gate(network: Network, job_id: str, name: str) -> None:
    """Until the job's process at a site is in round 1; a site that says `training` may still mean round 0."""
    folder = network.local(name) / "state" / "jobs" / job_id
    deadline = time.monotonic() + 60
    while not any(f"round 1 at {name}".encode() in log.read_bytes() for log in folder.glob("log*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["worker", "shim"])
def test_what_is_killed_from_outside_is_started_again(network: Network, tmp_path, victim):
    admin = network.admin()
    app = write_app(tmp_path / "gated", train=GATED)
    job = admin.submit(app)
    wait_for(admin, job.job_id, in_round_1)
    wait_in_gate(network, job.job_id, "site-2")
    shim = shim_of(network, "site-2", job.job_id)
    os.kill(shim if victim == "shim" else worker_of(shim), signal.SIGKILL)
    told = admin.job(job.job_id).sites[1]
    deadline = time.monotonic() + 20
    while "killed by SIGKILL; it is started again (try 2 of 3)" not in told.doing:
        assert time.monotonic() < deadline, told
        told = admin.job(job.job_id).sites[1]
    network.open_gate("site-1")
    network.open_gate("site-2")
    verify_ended_well(network, admin, job.job_id, app, tmp_path)
