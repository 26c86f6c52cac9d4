# SPDX-License-Identifier: Apache-2.0
"""Commands are imported when they are called; help and completion do without."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from flprov.cli import ENTRIES, root
from flprov.cli.lazy import Entry, LazyGroup

HEAVY = (
    "grpc",
    "torch",
    "sqlite3",
    "paramiko",
    "jinja2",
    "cryptography",
    "prompt_toolkit",
    "numpy",
    "matplotlib",
)


@pytest.fixture
def group():
    """Of its commands, importing `broken` fails."""
    return LazyGroup(
        name="flprov",
        entries={
            "use": Entry(target="use:use", help="Choose a kit."),
            "broken": Entry(target="no_such_module:x", help="Cannot be imported."),
        },
    )


def complete(group: click.Command, *words: str) -> list[str]:
    *before, incomplete = words
    return [
        item.value for item in ShellComplete(group, {}, "flprov", "X").get_completions(before, incomplete)
    ]


def test_help_lists_each_command_without_importing_one(group):
    text = CliRunner().invoke(group, ["--help"]).output
    assert "Choose a kit." in text
    assert "Cannot be imported." in text


def test_a_command_is_imported_when_it_is_called(group):
    assert "Act with this person's kit" in CliRunner().invoke(group, ["use", "--help"]).output
    assert isinstance(CliRunner().invoke(group, ["broken"]).exception, ModuleNotFoundError)


def test_the_nearest_name_is_offered(group):
    result = CliRunner().invoke(group, ["broke"])
    assert result.exit_code == 2
    assert "No such command 'broke'. Did you mean 'broken'?" in result.output


def test_nothing_is_offered_when_nothing_is_near(group):
    result = CliRunner().invoke(group, ["xyzzy"])
    assert "No such command 'xyzzy'." in result.output
    assert "Did you mean" not in result.output


def test_names_are_completed_without_importing_a_command(group):
    assert complete(group, "") == ["use", "broken"]
    assert complete(group, "b") == ["broken"]


def test_options_are_completed_too(group):
    assert complete(group, "--h") == ["--help"]
    assert complete(group, "use", "--h") == ["--help"]


def test_a_wrong_word_before_the_cursor_is_no_error(group):
    assert complete(group, "nonsense", "") == ["use", "broken"]


def test_completion_shows_the_help_line(group):
    [item] = ShellComplete(group, {}, "flprov", "X").get_completions([], "u")
    assert item.help == "Choose a kit."


@pytest.mark.parametrize("name", ENTRIES)
def test_each_command_can_be_imported_and_says_what_it_does(name):
    command = root.get_command(click.Context(root), name)
    assert isinstance(command, click.Command)
    assert CliRunner().invoke(root, [name, "--help"]).exit_code == 0


@pytest.mark.parametrize(
    "words", [["--help"], ["poc", "--help"], ["job", "--help"], ["admin", "--help"], ["--version"]]
)
def test_help_loads_nothing_heavy(words):
    code = (
        "import sys, json\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from flprov.cli import main\n"
        f"sys.argv = ['flprov', *{words!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
