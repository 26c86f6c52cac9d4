# SPDX-License-Identifier: Apache-2.0
"""Abort: from every state, whatever the processes do, with proof that nothing is left."""

from __future__ import annotations

import time

import pytest
from harness import GATED, PLAIN, Network, write_app
from test_network_faults import in_round_1, wait_for

from flprov.errors import NotFound

pytestmark = pytest.mark.network

STUBBORN = """
import os
import signal
import time

signal.signal(signal.SIGTERM, signal.SIG_IGN)


def train(task, site):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            os._exit(0)
    print("ready to be stubborn", flush=True)
    time.sleep(600)
"""


def test_abort_ends_processes_that_ignore_term_and_double_fork(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "stubborn", train=STUBBORN))
    ready = 0
    for part in admin.logs(job.job_id, follow=True):
        ready += part.data.count(b"ready to be stubborn")
        if ready == 2:
            break
    assert len(network.job_processes()) >= 2 * 5  # shim, worker, three daemons at each site
    began = time.monotonic()
    admin.abort(job.job_id, reason="enough")
    done = admin.wait(job.job_id, timeout=30)
    assert network.job_processes() == []
    assert time.monotonic() - began < 10
    assert (done.state, done.unconfirmed) == ("aborted", ())
    assert [site.state for site in done.sites] == ["stopped", "stopped"]
    assert not (network.local("site-1") / "state" / "jobs" / job.job_id).exists()


def test_abort_in_the_queue(make_network, tmp_path):
    network = make_network(2)
    network.start("server")
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN))
    assert admin.job(job.job_id).state == "queued"
    admin.abort(job.job_id)
    assert admin.wait(job.job_id, timeout=10).state == "aborted"
    with pytest.raises(NotFound, match="nothing to abort"):
        admin.abort(job.job_id)


def test_abort_while_deploying(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN))
    for seen in admin.watch(job.job_id, timeout=30):
        if seen.state == "deploying":
            break
    admin.abort(job.job_id)
    assert admin.wait(job.job_id, timeout=30).state == "aborted"
    assert network.job_processes() == []


def test_abort_while_a_site_is_away_names_it_until_it_confirms(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED))
    wait_for(admin, job.job_id, in_round_1)
    network.kill("site-2")
    wait_for(admin, job.job_id, lambda job: "to return" in job.reason)
    admin.abort(job.job_id)
    done = admin.wait(job.job_id, timeout=30)
    assert (done.state, done.unconfirmed) == ("aborted", ("site-2",))
    network.start("site-2")
    while admin.job(job.job_id).unconfirmed:
        pass
    assert network.job_processes() == []


def test_an_abort_goes_on_after_the_server_was_killed(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED, job="resources: {grace: 2s}"))
    wait_for(admin, job.job_id, in_round_1)
    admin.abort(job.job_id)
    network.kill("server")
    network.start("server")
    admin = network.admin()
    done = admin.wait(job.job_id, timeout=30)
    assert done.state == "aborted"
    while admin.job(job.job_id).unconfirmed:
        pass
    assert network.job_processes() == []
