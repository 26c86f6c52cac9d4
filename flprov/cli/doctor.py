# SPDX-License-Identifier: Apache-2.0
"""`flprov doctor [KIT]`: what does not work here, and the next thing to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import current_kit
from flprov.cli.output import clean, json_option, on_terminal, print_json, talk
from flprov.cli.passphrases import environment_kit_passphrase
from flprov.cli.proxies import environment_route
from flprov.errors import ExitCode, Misuse

if TYPE_CHECKING:
    from flprov.wire.documents import DoctorDocument, DoctorRow

_COLORS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "bright_black"}
_CODES = {"ok": ExitCode.DONE, "warning": ExitCode.ATTENTION, "problem": ExitCode.FAILED}

_HELP = """Look at a kit, this machine and the way to the server; say what to do about what is wrong.

\b
Examples:
  flprov doctor hospital-a        a site's kit: before its first start, or when it does not connect
  flprov doctor server            the server's own kit, on the server
  flprov doctor                   this machine, and the admin kit of `flprov use`
  flprov doctor hospital-a --json

KIT is the folder of a kit; it may be damaged or expired. Exit code: 0 all is well, 7 with warnings,
1 with problems. It takes ten seconds at most and changes nothing.
"""


@click.command(help=_HELP)
@click.argument("kit", type=click.Path(path_type=Path), required=False)
@json_option
def doctor(kit: Path | None, as_json: bool) -> None:
    """Print a row for each thing that was looked at."""
    from flprov.doctor import examine

    progress = _Progress()
    try:
        found = examine(
            kit or _chosen(),
            machine=kit is None,
            environment=environment_route(),
            passphrase=environment_kit_passphrase(),
            progress=progress,
        )
    finally:
        progress.close()
    if as_json:
        print_json(found)
    else:
        _print(found)
    raise SystemExit(_CODES[found.verdict])


def _chosen() -> Path | None:
    try:
        chosen = current_kit()
    except Misuse:
        return None
    if not chosen.exists():
        talk(clean(f"the admin kit that was chosen, {chosen}, is not there any more; looking at the machine"))
        return None
    return chosen


def _print(found: DoctorDocument) -> None:
    if found.kit:
        who = f"{found.kind} {found.name}".strip() or "a kit that does not say whose it is"
        click.echo(clean(f"{who}: {found.kit}"))
    labels = [f"{row.name} {row.subject}".strip() for row in found.rows]
    width = max(map(len, labels))
    for row, label in zip(found.rows, labels, strict=True):
        _print_row(row, label.ljust(width))
    counts = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for word in ("problem", "warning")
        if (count := sum(row.verdict == word for row in found.rows))
    ]
    click.echo(click.style(", ".join(counts) or "all is well", fg=_COLORS[found.verdict], bold=True))


def _print_row(row: DoctorRow, label: str) -> None:
    verdict = click.style(row.verdict.ljust(7), fg=_COLORS[row.verdict])
    click.echo(f"{verdict}  {clean(label)}  {clean(row.found)}")
    if row.next:
        click.echo(f"{' ' * (11 + len(label))}{click.style('next:', fg='cyan')} {clean(row.next)}")


class _Progress:
    """One line on a terminal: what is still waited for."""

    def __init__(self) -> None:
        self._drawn = False

    def __call__(self, total: int, left: Sequence[str]) -> None:
        if on_terminal():
            waiting = f"; waiting for {', '.join(left)}" if left else ""
            line = f"  {total - len(left)} of {total} checks{waiting}"
            click.echo(f"\r\033[K{line[:100]}", nl=False, err=True)
            self._drawn = True

    def close(self) -> None:
        """Leave the line."""
        if self._drawn:
            click.echo("\r\033[K", nl=False, err=True)
            self._drawn = False
