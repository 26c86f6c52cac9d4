# SPDX-License-Identifier: Apache-2.0
"""Real networks behind a real proxy, with and without a password, and behind one port that tells by SNI."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from front_doors import HAPROXY, TINYPROXY, haproxy, tinyproxy
from harness import PLAIN, Network, Running, free_port, write_app

from flprov.admin import open_admin
from flprov.project import Route, parse_proxy
from flprov.rpc import ask_local

pytestmark = [pytest.mark.network]
needs_tinyproxy = pytest.mark.skipif(TINYPROXY is None, reason="tinyproxy is not installed")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

PASSWORD = "s3cr.t-42"
LOGIN = "kim:s3cr%2Et-42@"


def write_settings(network: Network, name: str, proxy: str) -> None:
    path = network.local(name) / "site.yml"
    path.write_text(f"datasets: {{gate: {network.gate}}}\nproxy: {proxy}\n")
    path.chmod(0o600)


def status(network: Network, name: str) -> dict[str, object]:
    return json.loads(ask_local(network.local(name) / "state", what=name, hint=""))


def wait_for_line(running: Running, words: str, seconds: float = 15.0) -> None:
    """Until the process has printed `words`: follows its log as `tail -f` does, without a clock of ours."""
    follow = subprocess.Popen(["tail", "-n", "+1", "-F", str(running.log)], stdout=subprocess.PIPE, text=True)
    late = threading.Timer(seconds, follow.terminate)
    late.start()
    try:
        assert follow.stdout is not None
        assert any(words in line for line in follow.stdout), running.log.read_text()
    finally:
        late.cancel()
        follow.terminate()
        follow.wait()
        follow.stdout.close()


@needs_tinyproxy
def test_a_site_behind_a_proxy_with_a_password_runs_a_job(make_network, tmp_path):
    network = make_network(1)
    network.start("server")
    with tinyproxy(tmp_path, login=("kim", PASSWORD)) as proxy:
        write_settings(network, "site-1", proxy.url(LOGIN))
        site = network.start("site-1")
        route = Route(proxy=parse_proxy(proxy.url(LOGIN)), source="test")
        with open_admin(network.kit("ada"), route=route) as admin:
            app = write_app(tmp_path / "plain", train=PLAIN, job="sites: {min: 1}")
            done = admin.wait(admin.submit(app, settings={"rounds": "2"}).job_id, timeout=60)
        shown = status(network, "site-1")
        assert proxy.count(f"CONNECT localhost:{network.port}") >= 6  # control, bulk and admin; each probed
        told = Path(f"/proc/{site.process.pid}/cmdline").read_bytes().decode() + site.log.read_text()
    assert done.state == "completed", done.reason
    assert shown["proxy"] == f"{proxy.url()} (from site.yml, with a password)"
    told += json.dumps(shown) + "".join(proxy.printed)
    assert not any(secret in told for secret in (PASSWORD, "s3cr%2Et"))


@needs_tinyproxy
def test_a_site_waits_for_its_proxy_and_then_connects(make_network, tmp_path):
    network = make_network(1)
    network.start("server")
    port = free_port()
    write_settings(network, "site-1", f"http://127.0.0.1:{port}")
    site = network.start("site-1", ready=False)
    wait_for_line(site, f"nothing listens at the proxy http://127.0.0.1:{port}")
    with tinyproxy(tmp_path, port=port):
        site.wait_ready()
        assert status(network, "site-1")["connected"] is True


@needs_tinyproxy
def test_a_wrong_password_is_named_and_the_site_goes_on_trying(make_network, tmp_path):
    network = make_network(1)
    network.start("server")
    with tinyproxy(tmp_path, login=("kim", PASSWORD)) as proxy:
        write_settings(network, "site-1", proxy.url("kim:wr0ng@"))
        site = network.start("site-1", ready=False)
        wait_for_line(site, "does not take the user name and password that it was given (401)")
        assert site.process.poll() is None
        shown = status(network, "site-1")
    assert "(401)" in shown["link"]["reason"]
    assert "wr0ng" not in site.log.read_text() + json.dumps(shown)


@needs_tinyproxy
def test_the_environment_of_a_hospital(make_network, tmp_path, monkeypatch):
    """HTTPS_PROXY leads outside and this machine is dialled directly; a kit's proxy goes before NO_PROXY."""
    network = make_network(2)
    text = (network.folder / "project.yml").read_text()
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with tinyproxy(tmp_path) as proxy:
        line = "{name: site-2, org: org-b}"
        assert line in text
        (network.folder / "project.yml").write_text(
            text.replace(line, f'{{name: site-2, org: org-b, proxy: "{proxy.url()}"}}')
        )
        network.provision()
        network.up()
        shown = [status(network, name)["proxy"] for name in ("site-1", "site-2")]
        assert proxy.count(f"CONNECT localhost:{network.port}") == 2
    assert shown == ["http://127.0.0.1:9 (from HTTPS_PROXY)", f"{proxy.url()} (from kit.yml)"]


def with_own_names(hosts: Path, words: list[str]) -> list[str]:
    """A command that sees this /etc/hosts, in a mount namespace of its own."""
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", script, str(hosts), *words]


def can_have_own_names(hosts: Path) -> bool:
    done = subprocess.run(with_own_names(hosts, ["true"]), capture_output=True, timeout=10, check=False)
    return done.returncode == 0


@needs_haproxy
def test_two_projects_behind_one_port_are_told_apart_by_sni(make_network, tmp_path):
    """HAProxy opens nothing: each site reaches its own project's server, by the name that it dials."""
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost one.example two.example\n")
    if not can_have_own_names(hosts):
        pytest.skip("no mount namespaces here")
    networks = {"one.example": make_network(1), "two.example": make_network(1)}
    with haproxy(tmp_path, {name: network.port for name, network in networks.items()}) as door:
        for name, network in networks.items():
            path = network.folder / "project.yml"
            path.write_text(path.read_text().replace(f'["localhost:{network.port}"]', f'["{name}:{door}"]'))
            network.provision()
            network.start("server")
            network.command = lambda words: with_own_names(hosts, words)
            network.start("site-1")
            assert status(network, "site-1")["server"] == [f"{name}:{door}"]
        swapped = networks["two.example"]
        words = [sys.executable, "-m", "flprov", "doctor", str(swapped.kit("site-1")), "--json"]
        seen = subprocess.run(
            with_own_names(hosts, words), capture_output=True, text=True, timeout=30, check=False
        )
    rows = {row["name"]: row for row in json.loads(seen.stdout)["rows"]}
    assert rows["server"]["verdict"] == rows["tls"]["verdict"] == "ok"
    assert rows["agent"]["verdict"] == "ok"


@needs_haproxy
def test_a_door_that_does_not_know_the_name_is_told(make_network, tmp_path):
    network = make_network(1)
    with haproxy(tmp_path, {"other.example": network.port}) as door:
        path = network.folder / "project.yml"
        path.write_text(path.read_text().replace(f"localhost:{network.port}", f"localhost:{door}"))
        network.provision()
        network.start("server")
        site = network.start("site-1", ready=False)
        wait_for_line(site, f"localhost:{door} hung up during the TLS handshake")
