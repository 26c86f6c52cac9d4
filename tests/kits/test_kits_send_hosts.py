# SPDX-License-Identifier: Apache-2.0
"""Pinned host keys, the words and the file that say where kits go, and `flprov kit send` itself."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from kit_parties import PROJECT, contents
from ssh_hosts import make_key, needs_sshd, running_hosts

from flprov.cli.kit import kit as kit_command
from flprov.errors import ConfigError, IdentityRefused, Misuse, NotFound
from flprov.kits import parse_host_key, parse_jumps, parse_target, provision, read_hosts

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7IgeZnTuU1opnYAmAh9jB1QX1bd0V1XMhYxn4DpI/6"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHG1aZbUFYVk0P1MEOSIbGu2t1Fn2yO9kXjGTRvzH6Qb"


# ---- known_hosts -------------------------------------------------------------------------------


def pinned(tmp_path, text, host="gpu1.example", port=22):
    """The keys that a known_hosts file pins."""
    from flprov.kits.hostkeys import read_pins

    (tmp_path / "known_hosts").write_text(text)
    return [str(key) for key in read_pins([tmp_path / "known_hosts"], host, port).keys]


@pytest.mark.parametrize(
    ("line", "host", "port", "found"),
    [
        ("gpu1.example {key}", "gpu1.example", 22, True),
        ("gpu1.example {key} a comment", "GPU1.example", 22, True),
        ("a,gpu1.example,b {key}", "gpu1.example", 22, True),
        ("*.example {key}", "gpu1.example", 22, True),
        ("*.example,!gpu1.example {key}", "gpu1.example", 22, False),
        ("gpu?.example {key}", "gpu1.example", 22, True),
        ("gpu1.example {key}", "gpu1.example", 2222, False),
        ("[gpu1.example]:2222 {key}", "gpu1.example", 2222, True),
        ("[gpu1.example]:2222 {key}", "gpu1.example", 22, False),
        ("gpu1.example.evil {key}", "gpu1.example", 22, False),
        ("# gpu1.example {key}", "gpu1.example", 22, False),
        ("@cert-authority gpu1.example {key}", "gpu1.example", 22, False),
        ("@revoked gpu1.example {key}", "gpu1.example", 22, False),
        ("gpu1.example ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJ7IgeZnTuU1opnYAmAh9jB1", "gpu1.example", 22, False),
        ("gpu1.example ssh-ed25519 !!!", "gpu1.example", 22, False),
        ("|1|x|y {key}", "gpu1.example", 22, False),
    ],
)
def test_lines_of_known_hosts(tmp_path, line, host, port, found):
    assert pinned(tmp_path, line.format(key=KEY), host, port) == ([KEY] if found else [])


@needs_sshd
def test_names_that_ssh_keygen_hashed(tmp_path):
    path = tmp_path / "hashed"
    path.write_text(f"gpu1.example {KEY}\n[gpu1.example]:2222 {OTHER}\n")
    subprocess.run(["ssh-keygen", "-H", "-f", path], check=True, capture_output=True)
    assert "gpu1" not in path.read_text()
    assert pinned(tmp_path, path.read_text()) == [KEY]
    assert pinned(tmp_path, path.read_text(), port=2222) == [OTHER]
    assert pinned(tmp_path, path.read_text(), host="gpu2.example") == []


@needs_sshd
def test_fingerprints_are_those_of_ssh_keygen(tmp_path):
    for kind in ("ed25519", "ecdsa", "rsa"):
        path = make_key(tmp_path / kind, kind=kind).with_suffix(".pub")
        shown = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True).stdout
        assert parse_host_key(path.read_text()).fingerprint == shown.split()[1]


@pytest.mark.parametrize(
    "text", ["", "ssh-ed25519", "AAAA", "ssh-ed25519 AAAA", KEY.replace("ed25519", "rsa"), "a b"]
)
def test_what_is_no_host_key_is_refused(text):
    with pytest.raises(Misuse, match="not of the form"):
        parse_host_key(text)


# ---- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown", "folder"),
    [
        ("flprov@gpu1.example:/srv/flprov", "flprov@gpu1.example", "/srv/flprov"),
        ("gpu1:", "me@gpu1", ""),
        ("gpu1:kits", "me@gpu1", "kits"),
        ("gpu1:~/kits", "me@gpu1", "~/kits"),
        ("a@[2001:db8::1]:/srv", "a@[2001:db8::1]", "/srv"),
        ("ada@org.example@gpu1:/srv", "ada@org.example@gpu1", "/srv"),
    ],
)
def test_targets(text, shown, folder):
    login, found = parse_target(text, user="me")
    assert (str(login), found) == (shown, folder)


@pytest.mark.parametrize(
    "text", ["", "gpu1", "@gpu1:/srv", "-oProxyCommand=x:/srv", "a b:/srv", "gpu1:~root/x", "g:\n"]
)
def test_what_is_no_target_is_refused(text):
    with pytest.raises(Misuse):
        parse_target(text, user="me")


def test_jumps():
    assert [str(jump) for jump in parse_jumps("a@b:2222, c", user="me")] == ["a@b:2222", "me@c"]
    for text in ("", "a@b:x", "a@b:0", "a@b:70000", "-x"):
        with pytest.raises(Misuse):
            parse_jumps(text, user="me")


# ---- a file of hosts ---------------------------------------------------------------------------

HOSTS = f"""
kits: out/kits
defaults: {{user: flprov, dir: /srv/flprov, jump: "ops@bastion.example:2222", jump_key: "{OTHER}"}}
hosts:
  hospital-a: {{host: gpu1.hospital-a.example, host_key: "{KEY}"}}
  hospital-b: {{host: 10.0.0.7, port: 2200, user: root, dir: /opt/fl, jump: "b.example"}}
"""


def test_a_file_of_hosts(tmp_path):
    (tmp_path / "hosts.yml").write_text(HOSTS)
    first, second = read_hosts(tmp_path / "hosts.yml", user="me")
    assert first.kit == tmp_path / "out/kits/hospital-a"
    assert str(first.login) == "flprov@gpu1.hospital-a.example"
    assert first.login.keys == (parse_host_key(KEY),)
    assert first.folder == "/srv/flprov"
    assert [(str(jump), jump.keys) for jump in first.jumps] == [
        ("ops@bastion.example:2222", (parse_host_key(OTHER),))
    ]
    assert (str(second.login), second.folder) == ("root@10.0.0.7:2200", "/opt/fl")
    assert [(str(jump), jump.keys) for jump in second.jumps] == [("flprov@b.example", ())]


def test_every_mistake_of_a_file_of_hosts_is_said(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "defaults: {prot: 22}\n"
        "hosts:\n"
        "  ../evil: {host: a}\n"
        "  b: {host: '-oProxyCommand=x', port: 70000, host_key: nonsense, jump: '-x'}\n"
        "  c: {user: root}\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_hosts(tmp_path / "hosts.yml", user="me")
    text = str(caught.value)
    for part in (
        "'prot'",
        "'../evil'",
        "host name",
        "70000",
        "not of the form",
        "'-x' is not a host",
        "'host'",
    ):
        assert part in text, part
    with pytest.raises(NotFound):
        read_hosts(tmp_path / "nothing.yml", user="me")


# ---- as people type it -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with running_hosts(tmp_path_factory.mktemp("hosts")) as host:
        yield host


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with kits that are good today, and a home without keys."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    provision(PROJECT, tmp_path / "workspace", now=datetime.now(UTC))
    return tmp_path


def run(*words):
    return CliRunner().invoke(kit_command, ["send", *(str(word) for word in words)])


@needs_sshd
def test_one_kit_to_one_host(hosts, here):
    host = hosts()
    words = ["workspace/kits/hospital-a", f"127.0.0.1:{here}/there", "-p", host.port, "-i", hosts.key]
    unknown = run(*words)
    assert isinstance(unknown.exception, IdentityRefused)
    done = run(*words, "--host-key", host.public_key)
    assert done.exception is None, done.output
    assert f"{getpass.getuser()}@127.0.0.1:{host.port}" in done.stdout
    assert "delivered" in done.stdout
    assert contents(here / "there/hospital-a") == contents(here / "workspace/kits/hospital-a")


@needs_sshd
def test_keys_and_pins_at_their_usual_places(hosts, here):
    host = hosts()
    home = here / "home/.ssh"
    home.mkdir(parents=True)
    (home / "id_ed25519").write_bytes(hosts.key.read_bytes())
    make_key(home / "id_rsa", kind="rsa", passphrase="locked")
    (home / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {host.public_key}\n")
    done = run("workspace/kits/alice", f"127.0.0.1:{here}/there", "-p", host.port, "--json")
    assert done.exception is None, done.output
    (document,) = json.loads(done.stdout)["deliveries"]
    seconds = document.pop("seconds")
    assert 0 < seconds < 60
    assert document == {
        "kit": "alice",
        "folder": "workspace/kits/alice",
        "user": getpass.getuser(),
        "host": "127.0.0.1",
        "port": host.port,
        "path": f"{here}/there/alice",
        "outcome": "delivered",
        "service": None,
        "bytes_sent": sum(len(data) for data in contents(here / "workspace/kits/alice").values()),
        "files_kept": 0,
        "note": "",
        "error": None,
    }


@needs_sshd
def test_many_hosts_end_with_a_table_and_with_1_if_one_failed(hosts, here):
    host = hosts()
    (here / "hosts.yml").write_text(
        f"defaults: {{port: {host.port}}}\n"
        + "hosts:\n"
        + f"  hospital-a: {{host: 127.0.0.1, dir: {here}/a, host_key: '{host.public_key}'}}\n"
        + f"  hospital-b: {{host: 127.0.0.1, dir: {here}/b, host_key: '{OTHER}'}}\n"
        + f"  server: {{host: 127.0.0.1, dir: {here}/s, host_key: '{host.public_key}'}}\n"
    )
    done = run("--hosts", "hosts.yml", "-i", hosts.key)
    assert done.exit_code == 1
    rows = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()[1:]}
    assert rows == {"hospital-a": "delivered", "hospital-b": "failed", "server": "delivered"}
    assert "3/3" in done.stderr
    assert "hospital-b: 127.0.0.1" in done.stderr
    assert "shows the host key" in done.stderr
    assert "1 of 3 failed" in done.stderr
    assert not (here / "b").exists()
    some = run("--hosts", "hosts.yml", "hospital-a", "-i", hosts.key)
    assert some.exit_code == 0
    assert "unchanged" in some.stdout


@needs_sshd
def test_a_real_process_prints_one_error_and_no_trace(hosts, here):
    host = hosts()
    words = ["kit", "send", "workspace/kits/hospital-a", f"127.0.0.1:{here}/x", "-p", str(host.port)]
    done = subprocess.run(
        [sys.executable, "-m", "flprov", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert done.returncode == 3
    assert "error: nobody has pinned the host key of 127.0.0.1" in done.stderr
    assert "--host-key 'ssh-ed25519 " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (here / "x").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["KIT"],
        ["KIT", "a:b", "c:d"],
        ["KIT", "a:b", "--host-key", "nonsense"],
        ["--hosts", "hosts.yml", "-J", "a@b"],
        ["--hosts", "hosts.yml", "unknown"],
    ],
)
def test_words_that_mean_nothing(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts.yml").write_text("hosts: {a: {host: b}}\n")
    assert isinstance(run(*words).exception, Misuse)
