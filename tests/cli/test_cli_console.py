# SPDX-License-Identifier: Apache-2.0
"""`flprov admin`: lines become commands, errors are printed, one connection serves them all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from flprov.cli import root
from flprov.cli.acting import choice_file, remember
from flprov.cli.console import INTERRUPTED, Console, Left, parse_line, run_script
from flprov.errors import KitRefused, Misuse, NotFound, ServerUnavailable
from flprov.kits import provision
from flprov.project import Organisation, Person, Project, ServerParty, SiteParty
from flprov.wire.documents import JobDocument, SiteDocument

SITE = SiteDocument(
    name="hospital",
    org="a",
    state="connected",
    ladder=(),
    gpus=(),
    gpu_note="",
    cpu=None,
    memory=None,
    disk=None,
    jobs=(),
    last_seen=None,
    cert_not_after=None,
    version="0.1.0",
)


class FakeAdmin:
    """A client of a server with one site; `trouble` is raised by the next call."""

    def __init__(self, kit: Path) -> None:
        self.kit = kit
        self.closed = False
        self.trouble: BaseException | None = None

    def __enter__(self):
        return self

    def __exit__(self, *found):
        self.close()

    def close(self):
        self.closed = True

    def _meet_trouble(self):
        trouble, self.trouble = self.trouble, None
        if trouble:
            raise trouble

    def sites(self):
        self._meet_trouble()
        return (SITE,)

    def site(self, name):
        if name != SITE.name:
            raise NotFound(f"no site {name!r}", hint="flprov site ls")
        return SITE

    def wait(self, job_id, *, timeout=None, on_change=None, on_retry=None):
        now = datetime.now(UTC)
        return JobDocument(
            id=job_id,
            name="heart",
            app="x",
            state="degraded",
            reason="",
            submitted_at=now,
            started_at=now,
            finished_at=now,
            submitted_by="x",
            sites=(),
        )


@pytest.fixture(scope="module")
def kits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("console")
    people = (
        Person(name="alice", org="a", role="project_admin"),
        Person(name="bob", org="a", role="lead"),
    )
    project = Project(
        name="heart-study",
        trust_domain="heart.example",
        organisations=(Organisation(name="a"),),
        server=ServerParty(name="server", org="a", endpoints=("localhost:8443",)),
        sites=(SiteParty(name="hospital", org="a"),),
        people=people,
        source=folder / "project.yml",
    )
    provision(project, folder, now=datetime.now(UTC))
    return folder / "kits"


@pytest.fixture
def admins(monkeypatch):
    """Every client that was opened."""
    opened = []

    def open_admin(kit, **_):
        opened.append(FakeAdmin(kit))
        return opened[-1]

    monkeypatch.setattr("flprov.admin.open_admin", open_admin)
    return opened


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FLPROV_KIT", raising=False)


@pytest.fixture
def console(kits, admins):
    found = Console(kits / "alice")
    yield found
    found.close()


# ---- lines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   # nothing but a comment", []),
        ("site ls", ["site", "ls"]),
        ("job abort last --reason 'too slow' # at last", ["job", "abort", "last", "--reason", "too slow"]),
        ("flprov status", ["status"]),
        ("help", ["--help"]),
        ("help job submit", ["job", "submit", "--help"]),
        ("flprov help job", ["job", "--help"]),
    ],
)
def test_a_line_is_read_as_a_shell_would(line, words):
    assert parse_line(line) == words


def test_an_open_quotation_mark_is_misuse():
    with pytest.raises(Misuse, match="no closing quotation"):
        parse_line("job abort 'x")


# ---- running -----------------------------------------------------------------------------------


def test_a_command_prints_and_ends_with_0(console, capsys):
    assert console.run("site ls") == 0
    assert "hospital" in capsys.readouterr().out


def test_the_prompt_shows_person_and_project(console):
    assert console.prompt == "alice@heart-study> "


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("site show nowhere", 5, "no site 'nowhere'"),
        ("sit ls", 2, "No such command 'sit'. Did you mean 'site'?"),
        ("site", 2, "Usage"),
        ("site show", 2, "Missing argument"),
        ("site ls --nope", 2, "No such option"),
        ('site "ls', 2, "no closing quotation"),
        ("use /no/such/kit", 5, "there is no kit at /no/such/kit"),
    ],
)
def test_an_error_is_printed_and_the_console_goes_on(console, capsys, line, code, said):
    assert console.run(line) == code
    printed = capsys.readouterr()
    assert said in printed.err + printed.out
    assert "Traceback" not in printed.err
    assert console.run("site ls") == 0


def test_a_mistake_names_the_help_to_ask_for(console, capsys):
    console.run("site show")
    assert "help site show" in capsys.readouterr().err


def test_a_fault_of_ours_does_not_end_the_console(console, admins, capsys):
    console.run("site ls")
    admins[-1].trouble = ZeroDivisionError("ours")
    assert console.run("site ls") == 1
    assert "ZeroDivisionError: ours" in capsys.readouterr().err
    assert console.run("site ls") == 0


def test_ctrl_c_ends_the_command_alone(console, admins, capsys):
    console.run("site ls")
    admins[-1].trouble = KeyboardInterrupt()
    assert console.run("site ls") == INTERRUPTED
    assert "interrupted" in capsys.readouterr().err
    assert console.run("site ls") == 0


def test_a_job_that_ended_degraded_gives_its_code(console):
    assert console.run("job wait last") == 7


@pytest.mark.parametrize("word", ["exit", "quit"])
def test_leaving(console, word):
    with pytest.raises(Left):
        console.run(word)


@pytest.mark.parametrize(
    "line",
    [
        "server start x",
        "server status x",
        "site start x",
        "site status x",
        "poc up",
        "admin",
        "provision x",
        "simulate x",
    ],
)
def test_what_belongs_into_a_shell_is_not_here(console, capsys, line):
    assert console.run(line) == 2
    assert "No such command" in capsys.readouterr().err


def test_help_lists_what_is_here(console, capsys):
    assert console.run("help") == 0
    words = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert {"status", "site", "app", "job", "use", "help", "exit"} <= words
    assert not {"poc", "admin", "provision", "simulate", "kit"} & words


def test_help_on_one_command(console, capsys):
    assert console.run("help site show") == 0
    assert "One site with its whole ladder" in capsys.readouterr().out


# ---- the connection ----------------------------------------------------------------------------


def test_one_connection_serves_all_commands(console, admins):
    for _ in range(3):
        console.run("site ls")
    console.run("site show nowhere")  # an answer, though not a welcome one
    console.run("job wait last")
    assert len(admins) == 1
    assert not admins[0].closed
    console.close()
    assert admins[0].closed


@pytest.mark.parametrize("trouble", [ServerUnavailable("x"), KeyboardInterrupt(), RuntimeError("x")])
def test_after_trouble_the_next_command_dials_anew(console, admins, trouble):
    console.run("site ls")
    admins[0].trouble = trouble
    console.run("site ls")
    assert admins[0].closed
    assert console.run("site ls") == 0
    assert len(admins) == 2


def test_use_changes_person_prompt_and_connection(console, kits, admins):
    console.run("site ls")
    assert console.run(f"use {kits / 'bob'}") == 0
    assert console.prompt == "bob@heart-study> "
    assert admins[0].closed
    console.run("site ls")
    assert [admin.kit.name for admin in admins] == ["alice", "bob"]


def test_a_use_that_fails_changes_nothing(console, kits):
    assert console.run(f"use {kits / 'server'}") == 3
    assert console.prompt == "alice@heart-study> "


def test_the_kit_must_be_a_persons(kits, admins):
    with pytest.raises(KitRefused, match="the kit of a person is needed"):
        Console(kits / "hospital")


# ---- scripts -----------------------------------------------------------------------------------


def test_a_script_runs_to_its_end_and_gives_the_code_of_the_last_that_failed(console, capsys):
    assert run_script(console, ["site show x\n", "nonsense\n", "\n", "site ls\n"]) == 2
    assert "hospital" in capsys.readouterr().out


def test_a_script_in_which_nothing_fails_gives_0(console):
    assert run_script(console, ["site ls", "# done"]) == 0


def test_exit_ends_a_script(console, capsys):
    assert run_script(console, ["site show x", "exit", "site ls"]) == 5
    assert "hospital" not in capsys.readouterr().out


def test_ctrl_c_ends_a_script(console, admins, capsys):
    console.run("site ls")
    capsys.readouterr()
    admins[0].trouble = KeyboardInterrupt()
    assert run_script(console, ["site ls", "site ls"]) == INTERRUPTED
    assert "hospital" not in capsys.readouterr().out


def test_the_command_reads_a_script_from_stdin(kits, admins):
    remember(kits / "alice")
    result = CliRunner().invoke(root, ["admin"], input="site ls\nsite show nowhere\n")
    assert result.exit_code == 5
    assert "hospital" in result.output
    assert "no site 'nowhere'" in result.output
    assert all(admin.closed for admin in admins)


def test_a_script_without_a_last_newline_is_read_whole(kits, admins):
    result = CliRunner().invoke(root, ["--kit", str(kits / "bob"), "admin"], input="site ls")
    assert result.exit_code == 0
    assert "hospital" in result.output


def test_without_a_kit_it_says_how_to_choose_one():
    result = CliRunner().invoke(root, ["admin"], input="")
    assert isinstance(result.exception, Misuse)
    assert "flprov use KIT" in result.exception.hint
    assert not choice_file().exists()


@pytest.mark.parametrize(
    ("trouble", "code", "said"),
    [
        (PermissionError(13, "Permission denied", "/srv/out"), 1, "error: /srv/out: Permission denied\n"),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "no"), 2, "error: something that was typed is no UTF-8\n"),
    ],
)
def test_what_this_machine_has_against_a_command_is_a_sentence(console, admins, capsys, trouble, code, said):
    console.run("site ls")
    admins[0].trouble = trouble
    assert console.run("site ls") == code
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert "Traceback" not in shown


def test_a_line_with_a_null_byte_is_a_line(console, capsys):
    assert console.run('app build "a\0b"') == 5
    assert "Traceback" not in capsys.readouterr().err
