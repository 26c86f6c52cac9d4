# SPDX-License-Identifier: Apache-2.0
"""What a server is started with: its kit and, beside it, this machine's server.yml."""

from __future__ import annotations

import shutil
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from flprov.errors import ConfigError, KitRefused, NotFound
from flprov.server import load_server_config
from flprov.server.jobs.checkpoints import Retention


@pytest.fixture
def folder(kit_folder, tmp_path) -> Path:
    """A server's kit of one's own."""
    return Path(shutil.copytree(kit_folder / "server", tmp_path / "server"))


def settings(folder: Path, text: str) -> None:
    local = folder.with_name("server.local")
    local.mkdir(exist_ok=True)
    (local / "server.yml").write_text(text)


def test_without_settings_the_kit_says_all(folder, made_at):
    config = load_server_config(folder, now=made_at)
    assert (config.listen, config.unconfined, config.python) == ("127.0.0.1:0", False, Path(sys.executable))
    assert config.state == folder.with_name("server.local") / "state"
    assert not config.state.exists()  # nothing is made by reading
    assert config.heartbeat_seconds == 5.0


def test_settings_of_this_machine_win(folder, made_at):
    settings(folder, "listen: 0.0.0.0:9443\nunconfined: true\npython: /opt/py/bin/python\n")
    config = load_server_config(folder, now=made_at)
    assert (config.listen, config.unconfined, str(config.python)) == (
        "0.0.0.0:9443",
        True,
        "/opt/py/bin/python",
    )


def test_all_mistakes_are_told_at_once_with_their_lines(folder, made_at):
    settings(folder, "lisen: x\nunconfined: no\npython: 3\n")
    with pytest.raises(ConfigError) as found:
        load_server_config(folder, now=made_at)
    text = str(found.value)
    assert "server.yml:1: unknown key 'lisen' (did you mean 'listen'?)" in text
    assert "server.yml:2: " in text
    assert "server.yml:3: " in text


@pytest.mark.parametrize("name", ["site-1", "ada"])
def test_kit_of_another_kind_is_refused(kit_folder, made_at, name):
    with pytest.raises(KitRefused, match="is the kit of"):
        load_server_config(kit_folder / name, now=made_at)


def test_kit_that_was_changed_is_refused(folder, made_at):
    registry = folder / "registry.json"
    registry.write_text(registry.read_text().replace("site-1", "site-9"))
    with pytest.raises(KitRefused, match=r"registry.json"):
        load_server_config(folder, now=made_at)


def test_kit_that_is_not_there_is_not_found(tmp_path, made_at):
    with pytest.raises(NotFound):
        load_server_config(tmp_path / "nowhere", now=made_at)


# ---- operations --------------------------------------------------------------------------------


def test_what_operations_need_has_defaults(folder, made_at):
    config = load_server_config(folder, now=made_at)
    assert (config.checkpoints, config.keep_jobs, config.metrics) == (Retention(), None, "127.0.0.1:9464")
    assert config.warm == ("numpy", "torch")


def test_keys_of_operations_are_read(folder, made_at):
    settings(
        folder, "checkpoints: 0\nretention: {jobs: 90d}\nmetrics: '[::1]:9000'\nquota: {jobs: 2}\nwarm: []\n"
    )
    config = load_server_config(folder, now=made_at)
    assert config.warm == ()
    assert (config.checkpoints, config.keep_jobs) == (Retention(most=0, room=0), timedelta(days=90))
    assert config.metrics == "[::1]:9000"


@pytest.mark.parametrize("text", ["off", "'off'"])
def test_metrics_are_turned_off_with_or_without_quotes(folder, made_at, text):
    settings(folder, f"metrics: {text}\n")
    assert load_server_config(folder, now=made_at).metrics == "off"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("checkpoint: 3", "unknown key 'checkpoint' (did you mean 'checkpoints'?)"),
        ("checkpoints: -1", "'checkpoints'"),
        ("warm: yes", "'warm'"),
        ("checkpoints: many", "'checkpoints'"),
        ("retention: {job: 90d}", "unknown key 'job' (did you mean 'jobs'?)"),
        ("retention: {jobs: 90}", "'jobs'"),
        ("retention: {jobs: 5m}", "at least 1h"),
        ("retention: 90d", "'retention'"),
        ("metrics: localhost:9464", "'metrics' is 'localhost:9464'; write off, or an address and a port"),
        ("metrics: 127.0.0.1", "write off, or an address"),
        ("metrics: 127.0.0.1:99999", "write off, or an address"),
        ("metrics: 999.0.0.1:80", "write off, or an address"),
        ("metrics: 9464", "'metrics'"),
        ("metrics: true", "'metrics'"),
        ("metrics:", "'metrics' is empty"),
    ],
)
def test_mistakes_in_keys_of_operations_have_their_line(folder, made_at, text, said):
    settings(folder, f"# mine\n{text}\n")
    with pytest.raises(ConfigError) as found:
        load_server_config(folder, now=made_at)
    assert "server.yml:2: " in str(found.value)
    assert said in str(found.value)
