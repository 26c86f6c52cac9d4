# SPDX-License-Identifier: Apache-2.0
"""How results look: tables and words for people, one JSON document for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from flprov._base import to_document

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

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def print_json(value: object) -> None:
    """The one document of a command."""
    click.echo(json.dumps(to_document(value), indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be; states in colour on a terminal. A row is one line."""
    shown = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[n]) for row in (header, *shown)) for n in range(len(header))]
    click.echo(click.style(_line(header, widths).rstrip(), bold=True))
    for row in shown:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(_tint(cell) for cell in padded).rstrip())


def _one_line(text: str) -> str:
    return clean(text).replace("\n", " ").replace("\t", " ")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


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


def talk(text: str) -> None:
    """A word to the person at the terminal, on stderr."""
    click.echo(text, err=True)


def on_terminal() -> bool:
    """Whether somebody watches stderr."""
    return sys.stderr.isatty()
