# SPDX-License-Identifier: Apache-2.0
"""How results look: tables and words for people, one JSON document for machines."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from flprov._base import to_document

if TYPE_CHECKING:
    from flprov.wire.documents import WarmStart

_COLORS = {
    "connected": "green",
    "completed": "green",
    "ready": "green",
    "running": "cyan",
    "training": "cyan",
    "deploying": "cyan",
    "finishing": "cyan",
    "degraded": "yellow",
    "queued": "yellow",
    "waiting": "yellow",
    "aborting": "yellow",
    "aborted": "yellow",
    "disconnected": "red",
    "expired": "red",
    "locked": "red",
    "overdue": "yellow",
    "revoked": "red",
    "valid": "green",
    "warning": "yellow",
    "failed": "red",
    "refused": "red",
    "unconfirmed": "red",
}

MOST = 2**31 - 1  # for options that count something: what every message between programs can carry
_READABLE = 24  # characters: no column is made narrower, unless nothing else helps

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def print_json(value: object) -> None:
    """The one document of a command."""
    click.echo(json_text(value, indent=2))


def json_text(value: object, *, indent: int | None = None) -> str:
    """A document as JSON; what drives a terminal is spelled with escapes, whoever's text it is in."""
    text = json.dumps(to_document(value), indent=indent, ensure_ascii=False)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, spare: Sequence[str] = ()) -> None:
    """Columns as wide as they need to be; states in colour on a terminal. A row is one line.

    A terminal that is too narrow does without the columns `spare`, as many as it must, and goes on with long
    cells in the lines below.
    """
    shown = [[_one_line(cell) for cell in row] for row in (header, *rows)]
    widths = _widths(shown)
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        shown = _without_spare(shown, spare, room)
        widths = _narrowed(shown, room)
    for line in _lines(shown[0], widths):
        click.echo(click.style("  ".join(line).rstrip(), bold=True))
    for row in shown[1:]:
        for line in _lines(row, widths):
            click.echo("  ".join(_tint(cell) for cell in line).rstrip())


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _without_spare(rows: list[list[str]], spare: Sequence[str], room: int) -> list[list[str]]:
    """Without the first of the spare columns, as long as the rest cannot be read in this room."""
    for name in spare:
        if sum(_least(rows, _READABLE)) + _gaps(rows) <= room:
            break
        place = rows[0].index(name)
        rows = [[*row[:place], *row[place + 1 :]] for row in rows]
    return rows


def _narrowed(rows: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths for this room, as far as no word must be broken: the widest column gives way first."""
    widths, room = _widths(rows), room - _gaps(rows)
    for least in (_least(rows, _READABLE), _least(rows, 0)):
        while sum(widths) > room:
            widest = max(range(len(widths)), key=lambda n: (widths[n] > least[n], widths[n]))
            if widths[widest] <= least[widest]:
                break
            widths[widest] -= 1
    return widths


def _least(rows: Sequence[Sequence[str]], readable: int) -> list[int]:
    """How narrow each column can be: no narrower than its longest word, nor than what is easily read."""
    words = [
        max(len(word) for cell in column for word in cell.split() or [""])
        for column in zip(*rows, strict=True)
    ]
    return [max(word, min(width, readable)) for word, width in zip(words, _widths(rows), strict=True)]


def _gaps(rows: Sequence[Sequence[str]]) -> int:
    return 2 * (len(rows[0]) - 1)


def _lines(cells: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """The lines of one row: one, if every cell fits."""
    if all(len(cell) <= width for cell, width in zip(cells, widths, strict=True)):
        return [[cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]]
    import textwrap  # late: not every table is too wide

    wrapped = [
        textwrap.wrap(cell, max(width, 1), break_long_words=False, break_on_hyphens=False)
        for cell, width in zip(cells, widths, strict=True)
    ]
    high = max(map(len, wrapped))
    return [
        [(cell[n] if n < len(cell) else "").ljust(width) for cell, width in zip(wrapped, widths, strict=True)]
        for n in range(high)
    ]


def _one_line(text: str) -> str:
    return clean(text).replace("\n", " ").replace("\t", " ")


def _tint(cell: str) -> str:
    color = _COLORS.get(cell.strip())
    return click.style(cell, fg=color) if color else cell


def tint(word: str) -> str:
    """A state in its colour."""
    return _tint(word)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line; empty values are left out."""
    shown = [(name, _one_line(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{click.style(name.ljust(width), bold=True)}  {_tint(value)}")


def clean(text: str) -> str:
    """Text from elsewhere without control characters: a log or a reason cannot drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def ago(moment: datetime | None) -> str:
    """`12 s ago`; `-` for never."""
    if moment is None:
        return "-"
    return f"{span((datetime.now(UTC) - moment).total_seconds())} ago"


def until(moment: datetime | None) -> str:
    """Days left; `expired` when there are none."""
    if moment is None:
        return "-"
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return "expired" if seconds < 0 else f"{span(seconds)} left"


def span(seconds: float) -> str:
    """`0.4 s`, `12 s`, `5 min`, `3 h`, `4 d`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    for scale, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < scale * (120 if scale < 3600 else 48):
            return f"{seconds / scale:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def size(count: int | float) -> str:
    """`812 B`, `4.2 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def say_warm(warm: WarmStart | None) -> str:
    """`numpy, torch; 212.3 MiB`: what the template has imported and what it holds; or why there is none."""
    if warm is None:
        return ""
    said = "; ".join((", ".join(warm.modules) or "flprov", size(warm.memory)))
    return f"{said if warm.state == 'ready' else warm.state}{f' ({clean(warm.note)})' if warm.note else ''}"


def talk(text: str) -> None:
    """A word to the person at the terminal, on stderr."""
    click.echo(text, err=True)


def on_terminal() -> bool:
    """Whether somebody watches stderr."""
    return sys.stderr.isatty()
