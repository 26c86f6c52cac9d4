# SPDX-License-Identifier: Apache-2.0
"""What `events` and `audit` are asked for, and how a row of the log looks."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from flprov.cli.completion import complete_about, complete_holder
from flprov.cli.output import clean, tint

F = TypeVar("F", bound=Callable[..., Any])

_AGO = re.compile(r"([0-9]{1,6})(s|min|h|d)")
_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}


class Moment(click.ParamType[datetime]):
    """`2026-01-31`, `2026-01-31T12:00:00Z`, or how long ago: `90s`, `30min`, `12h`, `7d`."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """The moment, aware. A time without a zone is this machine's own."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        ago = _AGO.fullmatch(text)
        try:
            if ago:
                return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]])
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(
                f"{text!r} is no time: 2026-01-31, 2026-01-31T12:00:00Z, or how long ago: 30min, 12h, 7d",
                param,
                ctx,
            )


def row_filters(command: F) -> F:
    """--what, --object, --who, --outcome."""
    options = [
        click.option("--what", default="", metavar="VERB", help="A verb, or how it begins: job.submit, job."),
        click.option(
            "--object",
            "about",
            default="",
            metavar="NAME",
            shell_complete=complete_about,
            help="What it was done to: a job id, a site.",
        ),
        click.option(
            "--who",
            default="",
            metavar="WHO",
            shell_complete=complete_holder,
            help="Who did it: a name, or an identity's URI.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def describe_row(row: Any) -> str:  # noqa: ANN401 - an event or a row of the audit
    """One line: index, time, who (short), what, object, outcome, reason."""
    who = row.who.rpartition("/")[2] if row.who.startswith("spiffe://") else row.who
    outcome = "" if row.outcome == "ok" else row.outcome
    parts = [
        f"{row.index:>6}",
        row.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        _short(who, 16).ljust(16),
        _short(row.what, 16).ljust(16),
        _short(row.object, 24).ljust(24 if outcome or row.reason else 0),
    ]
    said = [tint(clean(outcome))] if outcome else []
    reason = clean(row.reason).replace("\n", " ").replace("\t", " ")
    return "  ".join([*(clean(part) for part in parts), *said, *([reason] if reason else [])]).rstrip()


def _short(text: str, most: int) -> str:
    line = text.replace("\n", " ").replace("\t", " ")
    return line if len(line) <= most or most >= 24 else f"{line[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
