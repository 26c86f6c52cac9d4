# SPDX-License-Identifier: Apache-2.0
"""Renewal with real processes: while a job runs, over restarts, and for a site that came too late."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import Network

from flprov.kits import load_kit, provision
from flprov.pki import Credential, describe_leaf, issue_identity, load_authority, not_after
from flprov.project import load_project

ROOT = Path(__file__).resolve().parents[2]


def flprov(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flprov", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def site_status(network: Network, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(flprov("site", "status", network.kit(name), "--json").stdout)
    return found


def in_use(network: Network, name: str, until: datetime) -> dict[str, object]:
    """The status of a site that has what the server just issued: the answer may still be under way to it."""
    for _ in range(20):
        status = site_status(network, name)
        if datetime.fromisoformat(str(status["cert_not_after"])) == until:
            return status
    raise AssertionError(f"{name} still uses {status}")


def chain_in_state(network: Network, name: str) -> bytes:
    stored = (network.local(name) / "state" / "identity.pem").read_bytes()
    return stored.partition(b"-----BEGIN PRIVATE KEY")[0]


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
    status = in_use(network, "site-1", issued.not_after)
    assert f"{describe_leaf(chain_in_state(network, 'site-1')).serial:x}" == issued.serial
    assert status["renewal"]["last_error"] == ""  # type: ignore[index]
    shown = flprov("kit", "show", network.kit("site-1"), "--json")
    assert datetime.fromisoformat(json.loads(shown.stdout)["cert_not_after"]) == issued.not_after

    network.kill("site-1")
    network.start("site-1")
    assert site_status(network, "site-1")["cert_not_after"] == status["cert_not_after"]
    assert admin.site("site-1").cert_not_after == issued.not_after


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
def late(tmp_path: Path) -> Iterator[Network]:
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


def test_a_site_whose_kit_has_expired_works_with_what_it_had_renewed(late, tmp_path):
    late.start("server")
    issued = put_renewed(late, "site-1")
    late.start("site-1")
    status = site_status(late, "site-1")
    assert datetime.fromisoformat(str(status["cert_not_after"])) == not_after(issued.chain_pem)
    shown = flprov("kit", "show", late.kit("site-1"))
    assert f"until {not_after(issued.chain_pem):%Y-%m-%d %H:%M} UTC" in shown.stdout
    assert flprov("kit", "verify", late.kit("site-1")).returncode == 0
    assert flprov("server", "status", late.kit("server"), "--health").returncode == 0
    late.kill("server")
    late.start("server")
    assert late.admin().site("site-1").name == "site-1"


def put_renewed(network: Network, name: str) -> Credential:
    """As if the site had renewed just now."""
    ca = network.folder / "ws" / "ca"
    authority = load_authority((ca / "sites.pem").read_bytes(), (ca / "sites.key.pem").read_bytes())
    identity = load_kit(network.kit(name), now=datetime.now(UTC)).identity
    issued = issue_identity(authority, identity, days=90, now=datetime.now(UTC))
    state = network.local(name) / "state"
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    (state / "identity.pem").write_bytes(issued.chain_pem + issued.private_pem)
    (state / "identity.pem").chmod(0o600)
    return issued
