# SPDX-License-Identifier: Apache-2.0
"""`flprov doctor`: what is printed, with which exit code, and with which kit."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

import flprov.cli.doctor as command
import flprov.doctor
from flprov._base import from_document
from flprov.cli import root
from flprov.wire.documents import DoctorDocument, DoctorRow

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ROW = DoctorRow(name="tcp", subject="fl.example:8443", verdict="ok", found="connected")


def document(verdict: str, *rows: DoctorRow) -> DoctorDocument:
    return DoctorDocument(
        verdict=verdict,
        kit="/kits/hospital-a",
        kind="site",
        name="hospital-a",
        version="1",
        checked_at=NOW,
        seconds=0.5,
        rows=rows or (ROW,),
    )


@pytest.fixture
def examined(monkeypatch, tmp_path):
    """examined(document) -> what `examine` was called with, once the command has run."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("FLPROV_KIT", "FLPROV_PROXY", "HTTPS_PROXY", "https_proxy", "FLPROV_KIT_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    calls: list[tuple[object, dict[str, object]]] = []

    def prepare(found: DoctorDocument):
        def examine(folder, **options):
            calls.append((folder, options))
            return found

        monkeypatch.setattr(flprov.doctor, "examine", examine)
        return calls

    return prepare


def run(*words: str):
    return CliRunner().invoke(root, ["doctor", *words])


@pytest.mark.parametrize(
    ("verdict", "code", "end"), [("ok", 0, "all is well"), ("warning", 7, ""), ("problem", 1, "")]
)
def test_the_verdict_is_the_exit_code(examined, verdict, code, end):
    examined(document(verdict))
    done = run("kit")
    assert done.exit_code == code
    assert done.output.startswith("site hospital-a: /kits/hospital-a\n")
    assert end in done.output


def test_rows_are_a_table_with_the_next_step_below(examined):
    bad = DoctorRow(name="tls", subject="fl.example:8443", verdict="problem", found="no", next="ask\x1b[2J")
    examined(document("problem", ROW, bad))
    assert run("kit").output.splitlines()[1:] == [
        "ok       tcp fl.example:8443  connected",
        "problem  tls fl.example:8443  no",
        "                              next: ask\N{REPLACEMENT CHARACTER}[2J",
        "1 problem",
    ]


def test_json_is_the_document(examined):
    found = document("warning")
    examined(found)
    done = run("kit", "--json")
    assert done.exit_code == 7
    assert from_document(DoctorDocument, json.loads(done.output)) == found


def test_a_kit_that_is_named_is_looked_at_alone(examined, tmp_path, monkeypatch):
    calls = examined(document("ok"))
    monkeypatch.setenv("FLPROV_KIT_PASSPHRASE", "open")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:1")
    run(str(tmp_path))
    [(folder, options)] = calls
    assert folder == tmp_path
    assert (options["machine"], options["passphrase"]) == (False, b"open")
    assert str(options["environment"]) == "http://proxy.example:1 (from HTTPS_PROXY)"


def test_without_a_kit_the_machine_and_the_chosen_admin_kit(examined, tmp_path):
    calls = examined(document("ok"))
    run()
    (tmp_path / "config" / "flprov").mkdir(parents=True)
    (tmp_path / "alice").mkdir()
    (tmp_path / "config" / "flprov" / "kit").write_text(f"{tmp_path / 'alice'}\n")
    run()
    assert [(folder, options["machine"]) for folder, options in calls] == [
        (None, True),
        (tmp_path / "alice", True),
    ]


def test_a_chosen_kit_that_is_gone_does_not_keep_the_machine_from_being_looked_at(examined, tmp_path):
    calls = examined(document("ok"))
    done = CliRunner().invoke(root, ["--kit", str(tmp_path / "gone"), "doctor"])
    assert done.exit_code == 0
    assert calls[0][0] is None
    assert "gone, is not there any more" in done.output


def test_a_mistake_in_the_environment_is_told_without_its_password(monkeypatch):
    monkeypatch.setenv("FLPROV_PROXY", "socks5://kim:s3cret@proxy.example:1")
    done = run("kit")
    assert done.exception is not None
    assert "FLPROV_PROXY: flprov speaks to HTTP proxies only" in str(done.exception)
    assert "s3cret" not in str(done.exception)


def test_progress_is_drawn_on_a_terminal_only(monkeypatch, capsys):
    progress = command._Progress()
    progress(3, ("tls",))
    progress.close()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(command, "on_terminal", lambda: True)
    progress(3, ("tls", "datasets"))
    progress.close()
    assert "1 of 3 checks; waiting for tls, datasets" in capsys.readouterr().err


def test_the_machine_for_real(examined, monkeypatch):
    """Without anything replaced: the command, its checks and its table."""
    done = run()
    assert done.exit_code in (0, 1, 7)
    assert [name in done.output for name in ("python", "disk", "confinement", "gpu")] == [True] * 4
