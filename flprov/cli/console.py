# SPDX-License-Identifier: Apache-2.0
"""`flprov admin`: the commands of an admin, one line after another over one connection.

On a terminal with history and completion (`prompt.py`); otherwise the lines come from stdin, as a script.
"""

from __future__ import annotations

import functools
import shlex
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from flprov.cli import ENTRIES, as_told, report
from flprov.cli.acting import KeptAdmin, chosen_kit, current_kit
from flprov.cli.lazy import Entry, LazyGroup
from flprov.errors import ExitCode, FlprovError, Misuse

INTERRUPTED = 130

# What needs no server, or only makes sense in a shell on the machine that it is about.
_ELSEWHERE = frozenset(
    {"admin", "ca", "cert", "doctor", "init", "join", "kit", "plan", "poc", "provision", "simulate"}
)
_ON_ITS_MACHINE = {
    "server": frozenset({"start", "status", "backup", "restore"}),
    "site": frozenset({"start", "status"}),
}
_OWN = {
    "site": Entry(target="site:site", help="The project's sites: list, ask why, lock, drain, restart."),
    "server": Entry(target="server:server", help="The server: drain and enable it, clean up there."),
    "help": Entry(target="console:explain", help="What there is, or what one command takes."),
    "exit": Entry(target="console:leave", help="Leave; so do `quit` and Ctrl-D."),
    "quit": Entry(target="console:leave", help="Leave."),
}


class Left(Exception):
    """`exit` was typed."""


class ConsoleGroup(LazyGroup):
    """The commands that make sense here."""

    def __init__(self) -> None:
        entries = {name: entry for name, entry in ENTRIES.items() if name not in _ELSEWHERE}
        super().__init__(entries=entries | _OWN, name="flprov")

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Without groups that have nothing here."""
        return [name for name in super().list_commands(ctx) if self._has_commands(ctx, name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A group without the commands that belong to another machine."""
        command = super().get_command(ctx, cmd_name)
        hidden = _ON_ITS_MACHINE.get(cmd_name)
        if hidden is None or not isinstance(command, click.Group):
            return command
        names = [name for name in command.list_commands(ctx) if name not in hidden]
        kept = {name: found for name in names if (found := command.get_command(ctx, name))}
        return click.Group(name=cmd_name, commands=kept, help=self.entries[cmd_name].help)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """`help` shows the commands and nothing about a program called with options."""
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.entries[name].help) for name in self.list_commands(ctx)])

    def _has_commands(self, ctx: click.Context, name: str) -> bool:
        if name not in _ON_ITS_MACHINE:
            return True
        found = self.get_command(ctx, name)
        return isinstance(found, click.Group) and bool(found.commands)


@click.command()
@click.argument("words", nargs=-1)
def explain(words: tuple[str, ...]) -> None:
    """What there is, or what one command takes: `help job submit`."""
    raise AssertionError(f"parse_line makes {words} a call with --help")


@click.command()
def leave() -> None:
    """Leave the console."""
    raise Left


class Console:
    """Runs lines as the person of one kit."""

    def __init__(self, kit: Path) -> None:
        self.commands = ConsoleGroup()
        self.person = ""
        self.project = ""
        self.admin = KeptAdmin(kit)
        self._act_with(kit)

    def _act_with(self, kit: Path) -> None:
        from flprov.kits import look_at_kit
        from flprov.pki import Kind

        loaded = look_at_kit(kit, now=datetime.now(UTC), kind=Kind.PERSON)
        self.admin.close()
        self.admin = KeptAdmin(loaded.folder)
        self.person, self.project = loaded.name, loaded.project

    @property
    def prompt(self) -> str:
        """`admin@heart-study> `."""
        return f"{self.person}@{self.project}> "

    def close(self) -> None:
        """Let go of the connection."""
        self.admin.close()

    def run(self, line: str) -> int:
        """Run one line; errors are printed. The command's exit code; raises Left for `exit`."""
        try:
            words = parse_line(line)
            if not words:
                return ExitCode.DONE
            result = self.commands.main(args=words, prog_name="", standalone_mode=False, obj=self.admin)
            if words[0] == "use":
                self._act_with(chosen_kit())
            return result if isinstance(result, int) else ExitCode.DONE
        except FlprovError as error:
            report(error)
            return error.exit_code
        except (OSError, UnicodeEncodeError) as error:
            told = as_told(error)
            report(told)
            return told.exit_code
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            path = context.command_path.strip() if context else ""
            report(Misuse(error.format_message(), hint=f"help {path}".rstrip()))
            return ExitCode.MISUSE
        except SystemExit as error:  # as `job wait` ends
            return error.code if isinstance(error.code, int) else ExitCode.FAILED
        except (click.exceptions.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            return INTERRUPTED
        except Left:
            raise
        except Exception:  # the outermost loop: one command's fault does not end the console
            traceback.print_exc()
            return ExitCode.FAILED


def parse_line(line: str) -> list[str]:
    """The words of a line as a shell would see them; `#` begins a comment.

    Raises:
        Misuse: a quotation mark has no second.
    """
    try:
        words = shlex.split(line.replace("\0", "\N{REPLACEMENT CHARACTER}"), comments=True)
    except ValueError as error:
        raise Misuse(f"this line cannot be read: {str(error).lower()}") from None
    if words[:1] == ["flprov"]:  # as in a shell
        words = words[1:]
    return [*words[1:], "--help"] if words[:1] == ["help"] else words


def run_script(console: Console, lines: Iterable[str]) -> int:
    """Run lines until they end or one leaves. The exit code of the last that failed."""
    code = int(ExitCode.DONE)
    for line in lines:
        try:
            code = console.run(line) or code
        except Left:
            break
        if code == INTERRUPTED:
            break
    return code


@click.command()
def admin() -> None:
    """The interactive console: the commands of an admin, completed with Tab.

    \b
    Examples:
      flprov admin                             type `help` there; Ctrl-D leaves
      echo 'job ls' | flprov admin             a script; exits as its last failing line
    """
    console = Console(current_kit())
    try:
        if sys.stdin.isatty():
            from flprov.cli.prompt import converse  # late: prompt_toolkit takes 100 ms

            converse(console)
            return
        code = run_script(console, iter(functools.partial(sys.stdin.readline), ""))
    finally:
        console.close()
    raise SystemExit(code)
