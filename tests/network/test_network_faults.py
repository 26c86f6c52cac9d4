# SPDX-License-Identifier: Apache-2.0
"""Processes killed with SIGKILL in the middle of a round: what was acknowledged stays, nothing lingers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import GATED, PLAIN, Network, write_app

from flprov.admin import Admin
from flprov.wire.documents import JobDocument

pytestmark = pytest.mark.network

ABSENCE = "sites: {min: 1, absence: 500ms}"


def wait_for(admin: Admin, job_id: str, holds: Callable[[JobDocument], bool]) -> JobDocument:
    for job in admin.watch(job_id, timeout=60):
        if holds(job):
            return job
    raise AssertionError("the job ended without it")


def in_round_1(job: JobDocument) -> bool:
    return job.rounds_done == 1 and all(site.state == "training" for site in job.sites)


def model_of(network: Network, job_id: str, folder) -> bytes:
    network.admin().download(job_id, folder)
    return (folder / "model.safetensors").read_bytes()


def test_a_killed_site_leaves_the_round_and_the_job_ends_degraded(make_network, tmp_path):
    network = make_network(3).up()
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED, job=ABSENCE))
    wait_for(admin, job.job_id, in_round_1)
    network.kill("site-2")
    network.open_gate("site-1")
    network.open_gate("site-3")
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "degraded"
    assert [[line.site for line in record.contributors] for record in done.rounds] == [
        ["site-1", "site-2", "site-3"],
        ["site-1", "site-3"],
        ["site-1", "site-3"],
    ]
    assert [missing.site for missing in done.rounds[1].absent] == ["site-2"]
    assert "not connected since" in done.rounds[1].absent[0].reason
    assert done.unconfirmed == ("site-2",)
    network.start("site-2")
    confirmed = admin.job(job.job_id)
    while confirmed.unconfirmed:  # pushed by the site as soon as it is connected
        confirmed = admin.job(job.job_id)
    assert confirmed.state == "degraded"
    assert network.job_processes() == []


def test_a_killed_site_that_returns_in_time_is_not_missed(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED, job="sites: {absence: 60s}"))
    wait_for(admin, job.job_id, in_round_1)
    network.kill("site-2")
    waiting = wait_for(admin, job.job_id, lambda job: "to return" in job.reason)
    assert "site-2" in waiting.reason
    network.open_gate("site-1")
    network.open_gate("site-2")
    network.start("site-2")
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "completed"
    assert all(len(record.contributors) == 2 for record in done.rounds)


@pytest.mark.parametrize("answered", [False, True], ids=["nobody-answered", "one-answered"])
def test_a_server_killed_in_mid_round_ends_the_job_with_the_same_model(make_network, tmp_path, answered):
    network = make_network(2).up()
    admin = network.admin()
    app = write_app(tmp_path / "gated", train=GATED)
    job = admin.submit(app)
    wait_for(admin, job.job_id, in_round_1)
    if answered:
        network.open_gate("site-1")
        wait_for(admin, job.job_id, lambda job: job.sites[0].state == "ready")
    network.kill("server")
    network.open_gate("site-1")
    network.open_gate("site-2")
    network.start("server")
    admin = network.admin()
    done = admin.wait(job.job_id, timeout=60)
    assert (done.state, done.rounds_done) == ("completed", 3)
    disturbed = model_of(network, job.job_id, tmp_path / "disturbed")
    calm = admin.submit(app)
    assert admin.wait(calm.job_id, timeout=60).state == "completed"
    assert model_of(network, calm.job_id, tmp_path / "calm") == disturbed
    assert network.job_processes() == []


def test_a_job_that_was_queued_when_the_server_was_killed_runs_afterwards(make_network, tmp_path):
    network = make_network(2)
    network.start("server")
    network.start("site-1")
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN), token="once")
    queued = admin.job(job.job_id)
    assert queued.state == "queued"
    assert "site-2" in queued.sites[1].site
    assert "2 of 2" in queued.reason or "site-2" in queued.reason
    network.kill("server")
    network.start("server")
    network.start("site-2")
    admin = network.admin()
    assert admin.submit(tmp_path / "plain", token="once").job_id == job.job_id
    assert admin.wait(job.job_id, timeout=60).state == "completed"


def test_a_worker_that_dies_costs_its_round_and_the_cause_is_named(network: Network, tmp_path):
    admin = network.admin()
    train = PLAIN.replace(
        'print("round"',
        'import os, signal\n    if task.round == 1 and site.name == "site-2":\n'
        '        os.kill(os.getpid(), signal.SIGSEGV)\n    print("round"',
    )
    job = admin.submit(write_app(tmp_path / "crash", train=train, job="sites: {min: 1}"))
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "degraded"
    assert [len(record.contributors) for record in done.rounds] == [2, 1, 2]
    why = admin.why(job.job_id)
    assert why.causes[0].party == "site-2"
    assert "SIGSEGV" in why.causes[0].message


def test_an_exception_in_job_code_fails_the_job_with_its_traceback(network: Network, tmp_path):
    admin = network.admin()
    train = "def train(task, site):\n    return {}['nothing']\n"
    job = admin.submit(write_app(tmp_path / "broken", train=train))
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "failed"
    why = admin.why(job.job_id)
    assert "KeyError" in why.causes[0].message
    assert "train.py" in why.causes[0].traceback
    assert network.job_processes() == []


def test_bad_updates_are_refused_by_site_and_tensor_and_the_round_goes_on(make_network, tmp_path):
    network = make_network(3).up()
    admin = network.admin()
    train = PLAIN.replace(
        "    return Update(",
        "    if site.name == 'site-2' and task.round == 0:\n        w = w * np.float32('nan')\n"
        "    if site.name == 'site-3' and task.round == 1:\n        w = np.zeros(5, dtype=np.float32)\n"
        "    return Update(",
    ).replace("float(w[0])", "0.0")
    job = admin.submit(write_app(tmp_path / "bad", train=train, job="sites: {min: 2}"))
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "degraded"
    assert [[m.site for m in record.refused] for record in done.rounds] == [["site-2"], ["site-3"], []]
    assert "'w'" in done.rounds[0].refused[0].reason
