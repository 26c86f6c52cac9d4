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
from flprov.cli.acting import choice_file
from flprov.cli.person import login_name
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


@pytest.mark.parametrize("left", [b"", b"\n", b"\0" * 40])
def test_a_choice_that_a_power_cut_has_torn_is_none(run, left):
    choice_file().parent.mkdir(parents=True, exist_ok=True)
    choice_file().write_bytes(left)
    ran = run("status")
    assert (ran.code, "no admin kit is chosen" in ran.err) == (2, True)


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


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", [("kit", "ls", "."), ("admin",)])
def test_streams_that_are_closed_are_as_if_they_led_nowhere(kits, tmp_path, closed, words):
    """`kit ls` asks whether stdout is a terminal, `admin` whether stdin is one."""
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "flprov", *words],
        cwd=kits,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "FLPROV_KIT": str(kits / "leo")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ("leo" in done.stdout) == (words[0] == "kit" and ">&- " not in f"{closed} ".replace("2>&-", ""))


def test_no_file_and_no_socket_gets_the_number_of_a_stream_that_was_closed():
    code = (
        "import os; from flprov.cli import _open_what_was_closed as open_them; open_them();"
        "opened = os.open(os.devnull, os.O_RDONLY);"
        "os._exit(0 if opened > 2 and os.path.samestat(os.fstat(1), os.stat(os.devnull)) else 1)"
    )
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("words", [("site", "show", os.fsdecode(b"M\xfcller")), ("join", "-")])
def test_words_that_are_no_utf8_are_misuse(kits, tmp_path, words):
    done = subprocess.run(
        [sys.executable, "-m", "flprov", *words],
        env={**os.environ, "FLPROV_KIT": str(kits / "leo"), "PYTHONIOENCODING": "utf-8:strict"},
        cwd=tmp_path,
        input=b"flprov1:M\xfcller\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr


def test_text_that_cannot_be_sent_is_not_shown_for_it_may_be_a_secret(run, admin: FakeAdmin):
    admin.fails["status"] = UnicodeEncodeError("utf-8", "the passphrase", 0, 1, "surrogates not allowed")
    ran = run("status")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: something that was typed is no UTF-8\n")
    assert "passphrase" not in ran.err


def test_a_passphrase_that_was_typed_in_another_encoding_is_misuse(run, monkeypatch):
    def prompt(*_words, **_options):
        return b"M\xfcller".decode()

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    run("init")
    ran = run("provision", "project.yml", "--passphrase")
    assert (ran.code, ran.err.splitlines()[0]) == (2, "error: what was typed is no UTF-8")


def test_a_user_without_name_and_home_is_told_what_to_set(run, kits, monkeypatch):
    """As in a container that is run with a number for its user."""
    for name in ("HOME", "XDG_CONFIG_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 987654321)
    ran = run("status")
    assert (ran.code, ran.err) == (
        2,
        "error: nothing says where this user's home folder is\nnext:  set HOME\n",
    )
    assert login_name() == "987654321"


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
