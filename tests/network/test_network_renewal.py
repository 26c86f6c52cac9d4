# SPDX-License-Identifier: Apache-2.0
"""Renewal with real processes: while a job runs, over restarts, and for a site that came too late."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import Network, write_app

from flprov.admin import open_admin
from flprov.kits import load_kit, provision
from flprov.pki import describe_leaf
from flprov.project import load_project

ROOT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)


def flprov(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flprov", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def site_status(network: Network, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(flprov("site", "status", network.kit(name), "--json").stdout)
    return found


def in_state(network: Network, name: str) -> bytes:
    return (network.local(name) / "state" / "identity.pem").read_bytes()


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "identity"))
    import renewal

    return renewal


def test_ten_second_certificates_while_a_job_runs(benchmark, tmp_path):
    found = benchmark.run(tmp_path, small=True)
    assert found["met"], found["details"]


def test_what_was_renewed_is_used_after_a_kill_and_by_the_commands_beside_it(network):
    admin = network.admin()
    issued = admin.renew_certificate("site-1", reason="a trial")
    assert f"{describe_leaf(in_state(network, 'site-1')[:2000]).serial:x}" == issued.serial
    status = site_status(network, "site-1")
    assert datetime.fromisoformat(str(status["cert_not_after"])) == issued.not_after
    assert status["renewal"]["last_error"] == ""  # type: ignore[index]
    shown = flprov("kit", "show", network.kit("site-1"), "--json")
    assert datetime.fromisoformat(json.loads(shown.stdout)["cert_not_after"]) == issued.not_after

    network.kill("site-1")
    network.start("site-1")
    assert site_status(network, "site-1")["cert_not_after"] == status["cert_not_after"]
    rows = admin.site("site-1")
    assert rows.cert_not_after == issued.not_after


def test_the_server_renews_without_ending_a_stream_and_shows_it_after_a_kill(network):
    before = network.admin().status().server.cert_not_after
    time.sleep(1.1)  # certificates have whole seconds
    issued = network.admin().renew_certificate("server")
    assert issued.not_after > before
    assert network.admin().status().server.cert_not_after == issued.not_after
    assert {site.state for site in network.admin().sites()} == {"connected"}
    network.kill("server")
    network.start("server")
    assert network.admin().status().server.cert_not_after == issued.not_after


@pytest.fixture
def late(tmp_path: Path) -> Network:
    """A network that was provisioned 100 days ago and has not been started since."""
    network = Network(tmp_path, 1)
    shutil.rmtree(tmp_path / "ws")
    provision(
        load_project(tmp_path / "project.yml"), tmp_path / "ws", now=datetime.now(UTC) - timedelta(days=100)
    )
    yield network
    network.close()


def test_an_expired_site_is_told_so_and_an_expired_server_helps_itself(late, tmp_path):
    code, said = late.start_refused("site-1")
    assert code == 3
    assert "the certificate of spiffe://net.example/site/org-a/site-1 expired on" in said
    assert "flprov invite create site-1" in said
    assert "Traceback" not in said
    server = late.start("server")
    assert "the server has made itself a new certificate" in server.log.read_text()
    assert late.admin().status().server.cert_not_after > datetime.now(UTC) + timedelta(days=89)

    again = flprov("provision", tmp_path / "project.yml", "-o", tmp_path / "ws", "--reissue", "site-1")
    assert again.returncode == 0, again.stderr
    (late.local("site-1")).mkdir(exist_ok=True)
    late.start("site-1")


def test_commands_on_the_machine_work_with_an_expired_kit(network, tmp_path):
    """A site that was provisioned long ago: its kit has expired, what it renewed has not."""
    project = load_project(tmp_path_of(network) / "project.yml")
    assert project is not None
    ada = network.admin()
    issued = ada.renew_certificate("site-1")
    kit = load_kit(network.kit("site-1"), now=issued.not_after + timedelta(days=1))
    assert kit.name == "site-1"
    with open_admin(network.kit("ada")) as admin:
        assert admin.site("site-1").cert_not_after == issued.not_after


def tmp_path_of(network: Network) -> Path:
    return network.folder
