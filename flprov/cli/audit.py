# SPDX-License-Identifier: Apache-2.0
"""`flprov audit`: every row of the server's log; whether it is as it was written; a copy to keep."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting, current_kit
from flprov.cli.filters import Moment, describe_row, row_filters
from flprov.cli.output import MOST, clean, json_option, print_fields, print_json, print_table, size, talk
from flprov.cli.progress import rows_bar
from flprov.errors import ExitCode, Misuse

if TYPE_CHECKING:
    from flprov.errors import FlprovError
    from flprov.wire.documents import AuditVerdictDocument

_LAST = 50


@click.group()
def audit() -> None:
    """Every row of the log: look, verify, keep a copy."""


@audit.command("ls")
@click.option("--since", type=Moment(), help="From this time on: 2026-01-31, 2026-01-31T12:00:00Z, 12h, 7d.")
@click.option("--until", type=Moment(), help="Before this time.")
@row_filters
@click.option("--outcome", default="", help="ok, denied, failed, ...")
@click.option("--from", "start", type=click.IntRange(1, 2**63 - 1), help="Index of the first.")
@click.option("-n", "limit", type=click.IntRange(1, MOST), help="At most so many; else the last 50.")
@json_option
def list_rows(
    since: datetime | None,
    until: datetime | None,
    what: str,
    about: str,
    who: str,
    outcome: str,
    start: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Rows of the log, the newest 50 unless you say otherwise.

    \b
    Examples:
      flprov audit ls --outcome denied --since 24h
      flprov audit ls --who ada --what site. --json
      flprov audit ls --from 1 -n 1000
    """
    from flprov.admin import Wanted

    wanted = Wanted(what=what, object=about, who=who, outcome=outcome, since=since, until=until)
    with acting() as admin:
        if start:
            found = admin.audit(wanted, start=start, limit=limit or 0)
        else:
            found = admin.audit(wanted, last=limit or _LAST)
    if as_json:
        print_json(found)
        return
    for row in found.rows:
        click.echo(describe_row(row))
    if not found.rows:
        talk("no such rows")


@audit.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@json_option
def verify(file: Path | None, as_json: bool) -> None:
    """Whether the log is as it was written: its hash chain, and what the sites have signed. Exit 1 if not.

    Everything is verified on this machine. Exit 7: a backup was restored, and rows that sites saw are lost.

    \b
    Examples:
      flprov audit verify                the server's log, downloaded and verified as it comes
      flprov audit verify audit.jsonl    an export, without the server
    """
    from flprov.admin import verify_export

    with rows_bar("verifying") as progress:
        if file is None:
            with acting() as admin:
                found = admin.verify_log(progress=progress, on_retry=_say_retry)
        else:
            found = verify_export(file, _own_kit(), progress=progress)
    if as_json:
        print_json(found)
    else:
        _print_verdict(found)
    restored = any(one.verdict == "restored" for one in found.witnesses)
    raise SystemExit(ExitCode.FAILED if not found.ok else ExitCode.ATTENTION if restored else ExitCode.DONE)


def _own_kit() -> Path | None:
    """The kit that was chosen, if one was: without it the sites' signatures cannot be verified."""
    try:
        return current_kit()
    except Misuse:
        return None


@audit.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file."
)
@json_option
def export(output: Path, as_json: bool) -> None:
    """Write the whole log to a file, a line of JSON per row; if the file is there, what is new of it.

    \b
    Examples:
      flprov audit export -o audit.jsonl
      flprov audit verify audit.jsonl    on any machine, without the server
    """
    with rows_bar("exporting") as progress, acting() as admin:
        found = admin.export_log(output, progress=progress, on_retry=_say_retry)
    if as_json:
        print_json(found)
        return
    click.echo(clean(f"{found.file}: {found.rows:,} rows, {found.added:,} of them new ({size(found.bytes)})"))
    click.echo(clean(f"verify it: flprov audit verify {found.file}"))


def _print_verdict(found: AuditVerdictDocument) -> None:
    if found.ok and any(one.verdict == "restored" for one in found.witnesses):
        said = "the log is sound, and was put back from a backup: rows that sites have seen are lost"
        click.echo(click.style(said, fg="yellow", bold=True))
    elif found.ok:
        click.echo(click.style("the log is as it was written", fg="green", bold=True))
    else:
        click.echo(click.style("the log is NOT as it was written", fg="red", bold=True))
    print_fields(
        [
            ("log", found.source),
            ("first bad row", "" if found.first_bad is None else str(found.first_bad)),
            ("problem", found.problem),
            ("good rows", f"{found.rows:,}"),
            ("last digest", f"{found.digest} (row {found.head})"),
            ("witnessed", _witnessed(found)),
        ]
    )
    if found.witnesses:
        click.echo()
        rows = [
            (one.site, str(one.index), f"{one.at:%Y-%m-%d %H:%M:%S}", one.verdict, one.text)
            for one in found.witnesses
        ]
        print_table(("SITE", "ROW", "SIGNED", "VERDICT", "WHY"), rows)
    for note in found.notes:
        talk(clean(f"note: {note}"))


def _witnessed(found: AuditVerdictDocument) -> str:
    if found.agreed is None:
        return "by nobody"
    sites = sorted({one.site for one in found.witnesses if one.verdict == "agrees"})
    return f"up to row {found.agreed}; {', '.join(sites)}"


def _say_retry(error: FlprovError, tries: int, seconds: float) -> None:
    talk(clean(f"{error}; it goes on where it was; try {tries}, next in {seconds:.0f} s"))
