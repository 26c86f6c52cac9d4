# SPDX-License-Identifier: Apache-2.0
"""From the entry point to the exit status: errors, hints, kits to act with, and what must never be seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_admin import BEEP, FakeAdmin
from cli_process import run_process

from flprov import __version__
from flprov.errors import (
    ConfigError,
    ConfinementRefused,
    Conflict,
    ExitCode,
    FlprovError,
    IdentityRefused,
    JobFailed,
    KitRefused,
    LocalError,
    Misuse,
    NotFound,
    PermissionRefused,
    PolicyRefused,
    ProtocolError,
    ServerUnavailable,
    SiteUnavailable,
    TimedOut,
)

CODES = {
    LocalError: 1,
    ProtocolError: 1,
    JobFailed: 1,
    Misuse: 2,
    Conflict: 2,
    IdentityRefused: 3,
    PermissionRefused: 3,
    PolicyRefused: 3,
    KitRefused: 3,
    ConfinementRefused: 3,
    ServerUnavailable: 4,
    SiteUnavailable: 4,
    NotFound: 5,
    TimedOut: 6,
}


@pytest.mark.parametrize(
    ("kind", "code"), CODES.items(), ids=lambda item: getattr(item, "__name__", str(item))
)
def test_an_error_is_a_sentence_a_hint_and_a_documented_code(run, admin: FakeAdmin, kind, code):
    admin.fails["status"] = kind("this is what was found", hint="flprov do this")
    ran = run("status", "--json")
    assert ran.code == code
    assert ran.out == ""
    assert ran.err == "error: this is what was found\nnext:  flprov do this\n"


def test_an_error_without_a_hint_is_a_sentence(run, admin: FakeAdmin):
    admin.fails["status"] = NotFound("no such thing")
    assert run("status").err == "error: no such thing\n"


def test_all_mistakes_of_a_file_are_told(run, admin: FakeAdmin):
    admin.fails["status"] = ConfigError(["job.yml:1: one", "job.yml:7: two"])
    ran = run("status")
    assert (ran.code, ran.err) == (2, "error: job.yml:1: one\njob.yml:7: two\n")


def test_an_error_from_elsewhere_cannot_drive_the_terminal(run, admin: FakeAdmin):
    admin.fails["status"] = PolicyRefused(f"no {BEEP}", hint=f"ask {BEEP}")
    err = run("status").err
    assert "red" in err
    assert not {"\x1b", "\x07", "\u202e"} & set(err)


def test_what_the_machine_refuses_is_an_error_too(run, admin: FakeAdmin):
    admin.fails["status"] = PermissionError(13, "Permission denied", "/var/x")
    ran = run("status")
    assert (ran.code, ran.err) == (1, "error: /var/x: Permission denied\n")


def test_ctrl_c_ends_with_130(run, admin: FakeAdmin):
    admin.fails["status"] = KeyboardInterrupt()
    ran = run("status")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.strip() == "interrupted"


def test_our_own_bug_is_not_hidden(run, admin: FakeAdmin, monkeypatch):
    admin.fails["status"] = ZeroDivisionError("a bug")
    monkeypatch.setattr(sys, "argv", ["flprov", "status"])
    from flprov.cli import main

    with pytest.raises(ZeroDivisionError):
        main()


def test_the_client_is_closed_however_a_command_ends(run, admin: FakeAdmin):
    run("status")
    admin.fails["status"] = NotFound("gone")
    run("status")
    assert admin.closed == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stauts"], "Did you mean 'status'"),
        (["status", "--jsno"], "--jsno"),
        (["status", "extra"], "extra"),
        (["job", "submt"], "submt"),
        (["job", "wait"], "ID"),
        (["job", "wait", "j1", "--timeout", "-1"], "-1"),
        (["job", "wait", "j1", "--timeout", "soon"], "soon"),
        (["job", "submit", "x", "--min-sites", "0"], "0"),
        (["simulate", "gone"], "gone"),
        (["simulate", ".", "-n", "0"], "0"),
        (["site", "start"], "KIT"),
    ],
)
def test_a_wrong_command_line_is_misuse(run, words, said):
    ran = run(*words)
    assert ran.code == ExitCode.MISUSE
    assert ran.out == ""
    assert said in ran.err


# ---- the kit to act with -----------------------------------------------------------------------


def test_without_a_kit_it_says_how_to_choose_one(run):
    ran = run("status")
    assert ran.code == 2
    assert "no admin kit is chosen" in ran.err
    assert "flprov use KIT" in ran.err


def test_the_option_goes_before_the_environment_and_that_before_use(run, admin: FakeAdmin, kits, monkeypatch):
    run("use", str(kits / "leo"))
    run("--kit", "by/option", "status")
    run("status")
    monkeypatch.delenv("FLPROV_KIT")
    run("status")
    assert admin.kits == [Path("by/option"), Path("kits/leo"), kits / "leo"]


# ---- real processes ----------------------------------------------------------------------------


def test_the_version_is_the_package_s(tmp_path):
    ran = run_process("--version", folder=tmp_path)
    assert (ran.code, ran.out.strip()) == (0, f"flprov, version {__version__}")


@pytest.mark.parametrize("encoding", ["utf-8:strict", "latin-1"])
def test_what_the_terminal_cannot_show_is_escaped(tmp_path, encoding):
    odd = tmp_path / os.fsdecode(b"M\xfcller \xe6\x97\xa5")
    ran = run_process("init", str(odd), folder=tmp_path, environment={"PYTHONIOENCODING": encoding})
    assert (ran.code, ran.err.count("Traceback")) == (0, 0)
    assert "\\udcfcller" in ran.out


def test_a_reader_that_goes_away_is_no_bug(tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "job.yml").write_text("name: app\ntasks: train.py\n")
    (app / "train.py").write_text("")
    process = subprocess.Popen(
        [sys.executable, "-m", "flprov", "app", "build", str(app), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `| true` does
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(30) == ExitCode.FAILED


def test_every_error_class_of_ours_is_here_or_has_a_child_that_is():
    leaves = {kind for kind in _all(FlprovError) if not kind.__subclasses__()}
    tested = set(CODES) | {ConfigError}
    assert {kind.exit_code for kind in leaves} == {kind.exit_code for kind in tested}


def _all(kind: type[FlprovError]) -> set[type[FlprovError]]:
    return {kind} | {found for child in kind.__subclasses__() for found in _all(child)}
