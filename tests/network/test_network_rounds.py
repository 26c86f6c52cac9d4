# SPDX-License-Identifier: Apache-2.0
"""A job through everything: people, server, workflow, sites, workers, and back."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from harness import GATED, PLAIN, Network, write_app

from flprov.errors import Conflict, NotFound, PermissionRefused
from flprov.wire import read_tensors

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def network(shared_network: Network) -> Network:
    return shared_network


def test_a_numpy_job_ends_with_the_mean_that_a_hand_computes(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN))
    done = admin.wait(job.job_id, timeout=60)
    assert (done.state, done.rounds_done) == ("completed", 3)
    files, no_plot = admin.download(job.job_id, tmp_path / "out")
    assert no_plot == ""
    names = {str(path.relative_to(tmp_path / "out")) for path in files}
    assert names == {
        "model.safetensors",
        "metrics.json",
        "metrics.png",
        "record.json",
        "series.jsonl",
        "logs/site-1.log",
        "logs/site-2.log",
        "logs/server.log",
    }
    # each round adds (10 * 1/3 + 20 * 2/3) / 30
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(model["w"], 3 * (10 / 3 + 40 / 3) / 30, rtol=1e-6)
    assert (tmp_path / "out" / "metrics.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_bytes())
    assert [record["round"] for record in metrics["rounds"]] == [0, 1, 2]
    assert "round 2 at site-1" in (tmp_path / "out" / "logs" / "site-1.log").read_text()


def test_rounds_name_who_contributed_what(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN))
    done = admin.wait(job.job_id, timeout=60)
    assert [[(c.site, c.samples) for c in r.contributors] for r in done.rounds] == [
        [("site-1", 10), ("site-2", 20)]
    ] * 3
    assert all(line.bytes > 0 for record in done.rounds for line in record.contributors)


def test_the_same_token_makes_one_job_and_another_wish_with_it_is_refused(network: Network, tmp_path):
    admin = network.admin()
    app = write_app(tmp_path / "plain", train=PLAIN)
    first = admin.submit(app, token="nightly")
    again = admin.submit(app, token="nightly")
    assert again.job_id == first.job_id
    assert again.repeated
    with pytest.raises(Conflict, match="nightly"):
        admin.submit(app, token="nightly", settings={"rounds": "4"})
    assert [job.id for job in admin.jobs() if job.token == "nightly"] == [first.job_id]


def test_an_uploaded_app_runs_by_name_without_its_folder(network: Network, tmp_path):
    admin = network.admin("leo")
    app = admin.upload(write_app(tmp_path / "plain", train=PLAIN))
    job = admin.submit("plain", settings={"rounds": "1"})
    assert job.app == app.digest
    assert admin.wait(job.job_id, timeout=60).state == "completed"


def test_roles_and_objects_are_checked(network: Network, tmp_path):
    app = write_app(tmp_path / "plain", train=PLAIN)
    for name in ("mia", "obi", "olga"):
        with pytest.raises(PermissionRefused):
            network.admin(name).submit(app)
    job = network.admin("leo").submit(app)
    network.admin().wait(job.job_id, timeout=60)
    with pytest.raises(PermissionRefused, match="own"):
        network.admin("lea").abort(job.job_id)
    with pytest.raises(PermissionRefused, match="organisation"):
        network.admin("lea").download(job.job_id, tmp_path / "no")
    assert network.admin("mia").download(job.job_id, tmp_path / "yes")[0]
    with pytest.raises(PermissionRefused):
        network.admin("obi").job(job.job_id)
    assert network.admin("obi").status().server.name == "server"
    with pytest.raises(NotFound):
        network.admin().job("nothing")


def test_a_download_goes_on_where_it_broke_off_and_overwrites_nothing(network: Network, tmp_path):
    admin = network.admin()
    job = admin.submit(write_app(tmp_path / "plain", train=PLAIN))
    admin.wait(job.job_id, timeout=60)
    whole, _ = admin.download(job.job_id, tmp_path / "whole")
    model = next(path for path in whole if path.name == "model.safetensors").read_bytes()
    out = tmp_path / "out"
    out.mkdir()
    (out / ".model.safetensors.partial").write_bytes(model[:10])
    seen = []
    admin.download(job.job_id, out, progress=lambda name, done, total: seen.append((name, done, total)))
    assert (out / "model.safetensors").read_bytes() == model
    (out / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(Conflict, match="other bytes"):
        admin.download(job.job_id, out)
    assert (out / "model.safetensors").read_bytes() == b"mine"


def test_a_large_model_travels_as_blobs_and_nothing_of_it_stays_at_the_sites(network: Network, tmp_path):
    admin = network.admin()
    app = write_app(tmp_path / "large", train=PLAIN)
    (app / "model.py").write_text(
        "import numpy as np\n\n\ndef initial():\n    return {'w': np.zeros(2_000_000, dtype=np.float32)}\n"
    )
    job = admin.submit(app)
    done = admin.wait(job.job_id, timeout=60)
    assert (done.state, done.rounds_done) == ("completed", 3)
    assert all(line.bytes > 8_000_000 for record in done.rounds for line in record.contributors)
    admin.download(job.job_id, tmp_path / "out")
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(model["w"], 3 * (10 / 3 + 40 / 3) / 30, rtol=1e-6)
    for name in network.names:
        blobs = network.local(name) / "state" / "blobs"
        assert [path for path in blobs.rglob("*") if path.is_file() and path.stat().st_size > 1_000_000] == []
    kept = [path.stat().st_size for path in (network.local("server") / "state" / "blobs").rglob("*")]
    assert sum(size > 1_000_000 for size in kept) == 3  # a checkpoint for each round; the last is the result


def test_a_server_killed_in_mid_round_of_a_large_model_changes_nothing(
    make_network: Callable[[int], Network], tmp_path
):
    network = make_network(2).up()
    admin = network.admin()
    app = write_app(tmp_path / "large", train=GATED)
    (app / "model.py").write_text(
        "import numpy as np\n\n\ndef initial():\n    return {'w': np.zeros(500_000, dtype=np.float32)}\n"
    )
    job = admin.submit(app)
    for seen in admin.watch(job.job_id, timeout=60):
        if seen.rounds_done == 1:
            break
    network.open_gate("site-1")
    network.kill("server")
    network.open_gate("site-2")
    network.start("server")
    admin = network.admin()
    assert admin.wait(job.job_id, timeout=60).state == "completed"
    admin.download(job.job_id, tmp_path / "out")
    model = read_tensors(tmp_path / "out" / "model.safetensors")
    np.testing.assert_allclose(model["w"], 3 * (10 / 3 + 40 / 3) / 30, rtol=1e-6)
