# SPDX-License-Identifier: Apache-2.0
"""What `flprov poc` prints, remembers and exits with. Its processes are stand-ins; see tests/poc."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flprov.cli import root
from flprov.cli.acting import choice_file
from flprov.cli.poc import starter
from flprov.errors import Conflict, LocalError, Misuse, NotFound
from flprov.poc import Poc, Starter

FAKE = Path(__file__).parents[1] / "poc" / "fake_flprov.py"


@pytest.fixture
def poc(tmp_path, monkeypatch):
    """Runs `flprov poc ...` in a folder and with a home of its own; ends what it started."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flprov.cli.poc.starter", fake_starter)

    def run(*words: str) -> Result:
        return CliRunner().invoke(root, ["poc", *words])

    yield run
    for folder in (tmp_path / "poc", tmp_path / "other"):
        if (folder / "network.json").exists():
            Poc(folder).down(grace=0.2)


def fake_starter() -> Starter:
    return Starter(command=(sys.executable, "-I", "-S", str(FAKE)), environment=dict(os.environ))


def test_up_says_what_it_made_where_and_what_next(poc, tmp_path):
    result = poc("up")
    assert result.exit_code == 0
    out = result.stdout
    assert "made and started server, site-1, site-2 in " in out
    assert f"in {tmp_path / 'poc'}" in out
    assert "site-2.local/policy.yml: everybody of this project may run any job there" in out
    assert f"acting as admin: {tmp_path / 'poc/workspace/kits/admin'}" in out
    assert "site-1 ready after" in result.stderr
    assert "flprov poc down" in result.stderr


def test_up_makes_its_admin_kit_the_current_one(poc, tmp_path):
    poc("up", "-n", "1")
    assert choice_file().read_text() == f"{tmp_path / 'poc/workspace/kits/admin'}\n"


def test_up_gives_one_document(poc, tmp_path):
    found = json.loads(poc("up", "-n", "1", "--json").stdout)
    assert found["folder"] == str(tmp_path / "poc")
    assert found["started"] == ["server", "site-1"]
    assert found["created"] is True
    assert found["endpoint"].startswith("localhost:")
    assert [party["state"] for party in found["parties"]] == ["serving", "connected"]


def test_up_again_says_that_it_runs(poc):
    poc("up", "-n", "1")
    result = poc("up")
    assert result.exit_code == 0
    assert "this network runs already" in result.stdout
    assert "wrote" not in result.stdout


def test_a_network_that_does_not_come_up_is_an_error_and_is_not_acted_with(poc, monkeypatch):
    monkeypatch.setenv("FAKE_SITE_1", "die")
    result = poc("up", "-n", "1")
    assert isinstance(result.exception, LocalError)
    assert "error: something is wrong here" in str(result.exception)
    assert not choice_file().exists()


def test_datasets_reach_the_sites(poc, tmp_path):
    (tmp_path / "data").mkdir()
    poc("up", "--dataset", "all=data", "--dataset", f"site-2:one={tmp_path}")
    first, second = (tmp_path / f"poc/workspace/kits/site-{n}.local/site.yml" for n in (1, 2))
    assert f'"all": "{tmp_path}/data"' in first.read_text()
    assert '"one"' not in first.read_text()
    assert f'"one": "{tmp_path}"' in second.read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["up", "--dataset", "x"], Misuse),
        (["up", "--dataset", "x=/no/such"], NotFound),
        (["up", "-n", "0"], SystemExit),
        (["up", "-o", "occupied"], Conflict),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(poc, tmp_path, words, error):
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.txt").touch()
    assert isinstance(poc(*words).exception, error)
    assert not (tmp_path / "poc").exists()
    assert not choice_file().exists()


def test_status_shows_each_process(poc):
    poc("up", "-n", "1")
    result = poc("status")
    assert result.exit_code == 0
    rows = [line.split()[:2] for line in result.stdout.splitlines() if "kits" not in line]
    assert ["server", "serving"] in rows
    assert ["site-1", "connected"] in rows


def test_status_of_a_stopped_network_ends_with_4(poc):
    poc("up", "-n", "1")
    poc("down")
    result = poc("status", "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["state"] == "stopped"


def test_status_and_down_mean_the_network_that_was_started_last(poc, tmp_path, monkeypatch):
    poc("up", "-n", "1")
    poc("up", "-n", "1", "-o", "other")
    monkeypatch.chdir("/")
    assert json.loads(poc("status", "--json").stdout)["folder"] == str(tmp_path / "other")
    assert json.loads(poc("down", "--json").stdout)["folder"] == str(tmp_path / "other")
    assert json.loads(poc("status", "-o", str(tmp_path / "poc"), "--json").stdout)["state"] == "running"


@pytest.mark.parametrize(
    "words", [["status"], ["down"], ["status", "-o", "nowhere"], ["down", "-o", "nowhere"]]
)
def test_where_there_is_no_network_it_says_so(poc, words):
    result = poc(*words)
    assert isinstance(result.exception, NotFound)
    assert "flprov poc up" in result.exception.hint


def test_down_says_what_it_stopped_and_where_the_data_are(poc, tmp_path):
    poc("up", "-n", "1")
    result = poc("down")
    assert result.exit_code == 0
    assert "stopped server, site-1 in " in result.stdout
    assert "no process is left" in result.stdout
    assert f"everything is kept in {tmp_path / 'poc'}" in result.stdout


def test_down_again_says_that_nothing_ran(poc):
    poc("up", "-n", "1")
    poc("down")
    assert "nothing ran" in poc("down").stdout


def test_delete_forgets_the_network_and_its_kit(poc, tmp_path):
    poc("up", "-n", "1")
    result = poc("down", "--delete")
    assert f"{tmp_path / 'poc'} was removed" in result.stdout
    assert not (tmp_path / "poc").exists()
    assert not choice_file().exists()
    assert isinstance(poc("status").exception, NotFound)


def test_delete_of_another_network_keeps_the_choice(poc, tmp_path):
    poc("up", "-n", "1", "-o", "other")
    poc("up", "-n", "1")
    poc("down", "-o", "other", "--delete")
    assert choice_file().read_text() == f"{tmp_path / 'poc/workspace/kits/admin'}\n"
    assert json.loads(poc("status", "--json").stdout)["folder"] == str(tmp_path / "poc")


def test_flprov_is_started_from_this_interpreter_and_nothing_of_the_current_folder():
    found = starter()
    assert found.command[0] == sys.executable
    assert "-P" in found.command
    assert (Path(found.command[-1]) / "flprov" / "cli").is_dir()


@pytest.mark.parametrize("words", [("-n", "9" * 20), ("--timeout", "1e300")])
def test_numbers_that_no_machine_has_room_for_are_refused(poc, words):
    result = poc("up", *words)
    assert result.exit_code == 2
    assert "is not in the range" in result.stderr


def test_delete_says_what_is_left(poc, tmp_path):
    poc("up", "-n", "1")
    (tmp_path / "poc" / "notes.txt").write_text("mine")
    result = poc("down", "--delete")
    assert "the network in" in result.stdout
    assert "what you have put there is kept" in result.stdout


def test_the_folder_of_a_network_is_remembered_also_when_its_name_is_no_utf8(poc, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "flprov.cli.poc._print_up", lambda _report: None
    )  # CliRunner's stdout takes UTF-8 only
    odd = tmp_path / os.fsdecode(b"M\xfcller")
    try:
        assert poc("up", "-n", "1", "-o", str(odd)).exit_code == 0
        assert poc("status", "--json").exit_code == 0
    finally:
        Poc(odd).down(grace=0.2)
