# SPDX-License-Identifier: Apache-2.0
"""The console on a terminal: keys go in, commands run, the line is completed, history is private."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from flprov.cli.acting import KeptAdmin
from flprov.cli.console import INTERRUPTED, ConsoleGroup, Left
from flprov.cli.prompt import LineCompleter, converse, history_file, split_words

CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


class FakeConsole:
    """Takes down the lines; `exit` leaves."""

    prompt = "alice@heart-study> "

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.commands = ConsoleGroup()
        self.admin = KeptAdmin(Path("/kit"))

    def run(self, line: str) -> int:
        self.lines.append(line)
        if line == "exit":
            raise Left
        return INTERRUPTED if line == "long" else 0


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def type_in():
    """Runs a console on these keys. The lines that it ran."""

    def typing(keys: str) -> list[str]:
        console = FakeConsole()
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
            keyboard.send_text(keys)
            converse(console)
        return console.lines

    return typing


def test_lines_are_run_until_ctrl_d(type_in):
    assert type_in(f"status\rsite ls\r{CTRL_D}") == ["status", "site ls"]


def test_exit_leaves(type_in):
    assert type_in("status\rexit\rnever\r") == ["status", "exit"]


def test_ctrl_c_at_the_prompt_drops_the_line(type_in):
    assert type_in(f"job abort last{CTRL_C}status\r{CTRL_D}") == ["status"]


def test_a_command_that_was_interrupted_does_not_end_the_console(type_in):
    assert type_in(f"long\rstatus\r{CTRL_D}") == ["long", "status"]


def test_earlier_lines_come_back_also_from_an_earlier_console(type_in):
    type_in(f"site show hospital\r{CTRL_D}")
    assert type_in(f"{UP}\r{CTRL_D}") == ["site show hospital"]


def test_history_is_for_the_user_alone(type_in):
    path = history_file()
    path.chmod(0o644)  # as a careless copy would
    type_in(f"status\r{CTRL_D}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "words", "incomplete"),
    [
        ("", [], ""),
        ("si", [], "si"),
        ("site ", ["site"], ""),
        ("site sh", ["site"], "sh"),
        ("job abort 'a b' --re", ["job", "abort", "a b"], "--re"),
    ],
)
def test_the_last_word_is_the_one_being_typed(text, words, incomplete):
    assert split_words(text) == (words, incomplete)


@pytest.fixture
def complete():
    completer = LineCompleter(FakeConsole())

    def completing(text: str) -> list[tuple[str, str]]:
        """What is typed instead of the last word, and what is said about it."""
        found = completer.get_completions(Document(text, len(text)), CompleteEvent())
        return [(text[: len(text) + one.start_position] + one.text, one.display_meta_text) for one in found]

    return completing


def test_commands_are_completed_with_their_help(complete):
    assert complete("sta") == [("status", "The server and every site, as they are now.")]


def test_commands_that_are_not_here_are_not_offered(complete):
    words = {word for word, _ in complete("")}
    assert {"job", "site", "help", "exit"} <= words
    assert not words & {"poc", "provision", "admin"}
    assert {word for word, _ in complete("server ")} >= {"server drain", "server enable", "server gc"}
    assert not {word for word, _ in complete("server ")} & {"server start", "server restore"}
    assert {word for word, _ in complete("site ")} >= {"site ls", "site show"}
    assert "site start" not in {word for word, _ in complete("site ")}


def test_options_are_completed(complete):
    assert [word for word, _ in complete("site ls --js")] == ["site ls --json"]


def test_help_and_the_programs_own_name_are_passed_over(complete):
    assert [word for word, _ in complete("help site sh")] == ["help site show"]
    assert [word for word, _ in complete("flprov sta")] == ["flprov status"]


def test_nothing_is_offered_inside_quotation_marks(complete):
    assert complete("job abort 'la") == []


def test_folders_are_completed(complete, tmp_path, monkeypatch):
    monkeypatch.setattr("flprov.cli.completion._offers", lambda ctx, what: [])
    (tmp_path / "my-app").mkdir()
    (tmp_path / "my-file").touch()
    assert [word for word, _ in complete(f"job submit {tmp_path}/my")] == [f"job submit {tmp_path}/my-app"]


def test_names_of_the_server_are_completed_for_the_kit_that_acts(complete, monkeypatch):
    kits = []

    async def ask(kit: Path, what: str):
        kits.append(kit)
        return [("hospital-a", "connected")]

    monkeypatch.setattr("flprov.cli.completion._ask", ask)
    assert complete("site show h") == [("site show hospital-a", "connected")]
    assert kits == [Path("/kit")]


def test_a_word_with_blanks_is_quoted(complete, monkeypatch):
    def offer(self: click.Command, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem("two words")]

    monkeypatch.setattr(ConsoleGroup, "shell_complete", offer)
    assert [word for word, _ in complete("")] == ["'two words'"]


# What is named with these is nothing that is there already, or a file.
FREE = {("site add", "name"), ("help", "words"), ("use", "kit"), ("audit verify", "file")}
FREE |= {("app build", "folder"), ("app from-flare", "folder"), ("app upload", "folder")}


def parameters(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Parameter]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from parameters(found, (*path, name))
    else:
        yield from ((" ".join(path), parameter) for parameter in command.params)


def test_whatever_names_a_site_a_job_an_app_or_a_person_is_completed():
    """In every command of the console, also those that come later."""
    named = {"site", "sites", "org", "who", "about", "name", "job_id", "app"}
    missing = {
        (command, parameter.name)
        for command, parameter in parameters(ConsoleGroup())
        if (isinstance(parameter, click.Argument) or parameter.name in named)
        and parameter._custom_shell_complete is None
    }
    assert missing == FREE
