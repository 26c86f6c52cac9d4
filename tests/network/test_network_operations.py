# SPDX-License-Identifier: Apache-2.0
"""Stop and restart of a site from the console, with real processes and a job under way."""

from __future__ import annotations

import subprocess
import threading

import pytest
from harness import GATED, write_app

pytestmark = pytest.mark.network


def test_site_is_restarted_under_a_job_and_stopped_after_it(network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED))
    for seen in admin.watch(job.job_id, timeout=60):
        if seen.rounds_done == 1 and all(site.state == "training" for site in seen.sites):
            break
    workers = set(network.job_processes())
    pid = network.running["site-1"].process.pid
    states = [step.state for step in admin.restart_site("site-1", reason="update")]
    assert states[-1] == "back"
    assert network.running["site-1"].process.pid == pid  # no supervisor notices
    assert network.running["site-1"].process.poll() is None
    assert workers <= set(network.job_processes())

    heard: list[str] = []
    stopping = threading.Thread(
        target=lambda: heard.extend(s.text for s in network.admin().stop_site("site-1"))
    )
    stopping.start()
    for found in admin.watch_drain("site-1"):
        assert not found.safe_to_stop
        break
    for name in network.names:
        network.open_gate(name)
    done = admin.wait(job.job_id, timeout=60)
    assert done.state == "completed"  # it was waited for, and nothing was lost by the restart
    assert [len(record.contributors) for record in done.rounds] == [2, 2, 2]
    stopping.join(30)
    assert heard[-1] == "site-1 has stopped, and stays drained until: flprov site enable site-1"
    assert network.running["site-1"].process.wait(20) == 0
    assert admin.site("site-1").drained

    network.start("site-1")  # it stays drained, and is not told again
    assert admin.site("site-1").order == ""
    assert admin.enable_site("site-1").changed
    with pytest.raises(subprocess.TimeoutExpired):
        network.running["site-1"].process.wait(0.3)
