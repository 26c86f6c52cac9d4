# SPDX-License-Identifier: Apache-2.0
"""The mistakes found in one file, by line, and how to word them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from flprov.errors import ConfigError

MOST_SHOWN = 50  # a file of 50,000 mistakes is not read to its end by anybody


class Report:
    """Collects the problems of one file; raises them together, sorted by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._problems: list[tuple[int, str]] = []

    def problem(self, line: int, message: str) -> None:
        """Note one mistake; the same one twice counts once."""
        if len(self._problems) <= MOST_SHOWN * 20 and (line, message) not in self._problems[-3:]:
            self._problems.append((line, message))

    def stop(self, line: int, message: str) -> NoReturn:
        """Note a mistake after which the file cannot be read on, and raise what is here.

        Raises:
            ConfigError: always.
        """
        self.problem(line, message)
        self.raise_problems()
        raise AssertionError("a problem was noted")

    @property
    def full(self) -> bool:
        """Whether more problems are here than anybody will be shown."""
        return len(self._problems) > MOST_SHOWN

    def raise_problems(self) -> None:
        """Raise what was collected, if anything.

        Raises:
            ConfigError: with one `file:line: message` for each problem.
        """
        if not self._problems:
            return
        found = sorted(self._problems, key=lambda problem: problem[0])
        lines = [f"{self.path}:{line}: {message}" for line, message in found[:MOST_SHOWN]]
        if self.full:
            lines.append(f"{self.path}: more than {MOST_SHOWN} problems; these are the first")
        raise ConfigError(lines)


def shown(text: str, limit: int = 60) -> str:
    """`text` quoted for a message: one line, nothing invisible, not longer than `limit`."""
    short = text if len(text) <= limit else text[:limit] + "..."
    return repr(short) if short.isprintable() else ascii(short)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or None."""
    import difflib  # late: who made no mistake does without

    plain = {_plain(choice): choice for choice in choices}
    found = difflib.get_close_matches(_plain(word[:64]), plain, n=1, cutoff=0.6)
    return plain[found[0]] if found else None


def suggestion(word: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or the choices when there are few, or nothing."""
    known = sorted(choices)
    best = nearest(word, known)
    if best is not None:
        return f" (did you mean {best!r}?)"
    if not known or len(known) > 20:
        return ""
    return f" (known here: {', '.join(known)})"


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").replace(" ", "_")
