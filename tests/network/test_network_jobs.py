# SPDX-License-Identifier: Apache-2.0
"""Jobs over real processes: a killed workflow, clones of checkpoints, removal, an abort without its site."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import GATED, PLAIN, Network, write_app
from safetensors.numpy import load_file
from test_network_faults import in_round_1, wait_for

from flprov.errors import Conflict, NotFound

pytestmark = pytest.mark.network


def workers_of(network: Network) -> dict[str, int]:
    """main -> pid of every job process of this network's server."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            cwd = (entry / "cwd").readlink()
        except OSError:
            continue
        if str(network.folder) in str(cwd) and any("workflow_main" in word for word in words):
            found["workflow"] = int(entry.name)
    return found


def model_of(network: Network, job_id: str, folder: Path) -> list[float]:
    network.admin().download(job_id, folder)
    return load_file(folder / "model.safetensors")["w"].tolist()


def test_a_killed_workflow_is_started_again_and_the_model_is_the_same(network: Network, tmp_path):
    admin = network.admin()
    plain = admin.submit(write_app(tmp_path / "plain", train=PLAIN))
    assert admin.wait(plain.job_id, timeout=60).state == "completed"
    job = admin.submit(write_app(tmp_path / "gated", train=GATED))
    wait_for(admin, job.job_id, in_round_1)
    network.open_gate("site-1")
    wait_for(admin, job.job_id, lambda job: job.sites[0].state == "ready")
    os.kill(workers_of(network)["workflow"], signal.SIGKILL)
    wait_for(
        admin, job.job_id, lambda job: "started again from the saved state of round 2 (1 of 3)" in job.reason
    )
    network.open_gate("site-2")
    done = admin.wait(job.job_id, timeout=60)
    assert (done.state, done.unconfirmed) == ("completed", ())
    assert [len(record.contributors) for record in done.rounds] == [2, 2, 2]
    first = model_of(network, plain.job_id, tmp_path / "a")
    assert model_of(network, job.job_id, tmp_path / "b") == first
    assert network.job_processes() == []


def test_a_clone_goes_on_from_a_checkpoint_and_a_deleted_job_is_gone(network: Network, tmp_path):
    admin = network.admin()
    app = write_app(tmp_path / "plain", train=PLAIN)
    whole = admin.submit(app)
    ended = admin.wait(whole.job_id, timeout=60)
    assert [record.checkpoint for record in ended.rounds] == [True, True, True]
    clone = admin.clone(whole.job_id, from_round=2)
    rest = admin.wait(clone.job_id, timeout=60)
    assert (rest.state, [record.round for record in rest.rounds]) == ("completed", [2])
    assert (rest.origin.job_id, rest.origin.round) == (whole.job_id, 2)
    first = model_of(network, whole.job_id, tmp_path / "a")
    assert model_of(network, clone.job_id, tmp_path / "b") == first
    with pytest.raises(NotFound, match="has done 3 rounds, not 4"):
        admin.clone(whole.job_id, from_round=4, settings={"rounds": "9"})
    admin.delete_job(whole.job_id, reason="tidy")
    with pytest.raises(NotFound):
        admin.job(whole.job_id)
    assert [job.id for job in admin.jobs()] == [clone.job_id]
    assert admin.job(clone.job_id).origin.job_id == whole.job_id


def test_an_abort_ends_when_its_site_was_locked_and_names_it(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "gated", train=GATED))
    wait_for(admin, job.job_id, in_round_1)
    admin.lock_site("site-2", reason="a review")
    admin.abort(job.job_id, reason="stop")
    done = admin.wait(job.job_id, timeout=60)
    assert (done.state, done.unconfirmed) == ("aborted", ("site-2",))
    assert [site.state for site in done.sites] == ["stopped", "unconfirmed"]
    with pytest.raises(Conflict, match="site-2 could not confirm yet"):
        admin.delete_job(job.job_id)
    admin.unlock_site("site-2")
    confirmed = admin.job(job.job_id)
    while confirmed.unconfirmed:  # pushed by the site as soon as it is connected
        confirmed = admin.job(job.job_id)
    assert [site.state for site in confirmed.sites] == ["stopped", "stopped"]
    assert network.job_processes() == []
