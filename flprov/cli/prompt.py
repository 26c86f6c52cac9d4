# SPDX-License-Identifier: Apache-2.0
"""The console on a terminal: history, completion, Ctrl-C and Ctrl-D. The only door to prompt_toolkit."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem, ShellComplete
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory

from flprov.cli.acting import choice_file
from flprov.cli.console import Console, Left


def converse(console: Console) -> None:
    """Ask for lines and run them until the person leaves."""
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history_file())),
        completer=LineCompleter(console),
        complete_in_thread=True,  # names come from the server
        complete_while_typing=False,
    )
    click.echo("Tab completes, `help` explains, Ctrl-C ends a command, Ctrl-D leaves.", err=True)
    while True:
        try:
            console.run(session.prompt(console.prompt))
        except KeyboardInterrupt:  # at the prompt: a line that was not meant
            continue
        except (EOFError, Left):
            return


def history_file() -> Path:
    """Where lines are kept, for this user's eyes only."""
    path = choice_file().with_name("console_history")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)
    return path


class LineCompleter(Completer):
    """Offers what click would offer to a shell."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Words for the place of the cursor."""
        try:
            words, incomplete = split_words(document.text_before_cursor)
        except ValueError:  # inside quotation marks
            return
        if words[:1] in (["help"], ["flprov"]):
            words = words[1:]
        for item in self._offers(words, incomplete):
            if item.type in ("file", "dir"):
                yield from _paths(incomplete, complete_event, only_folders=item.type == "dir")
            else:
                word = shlex.quote(item.value)
                yield Completion(
                    word, start_position=-len(incomplete), display=item.value, display_meta=item.help or ""
                )

    def _offers(self, words: list[str], incomplete: str) -> list[CompletionItem]:
        context = {"obj": self._console.admin}
        return ShellComplete(self._console.commands, context, "", "").get_completions(words, incomplete)


def _paths(incomplete: str, event: CompleteEvent, *, only_folders: bool) -> Iterator[Completion]:
    completer = PathCompleter(expanduser=True, only_directories=only_folders)
    yield from completer.get_completions(Document(incomplete, len(incomplete)), event)


def split_words(text: str) -> tuple[list[str], str]:
    """The finished words of a line, and the one that is being typed (possibly empty).

    Raises:
        ValueError: a quotation mark is open.
    """
    words = shlex.split(text)
    if words and not text[-1:].isspace():
        return words[:-1], words[-1]
    return words, ""
