# SPDX-License-Identifier: Apache-2.0
"""How ladders, causes and what was seen look: the same for an admin and on the site's own machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from flprov.cli.output import ago, clean, print_table, tint

if TYPE_CHECKING:
    from flprov.wire.documents import Cause, RefusedDocument, Rung, Seen


def top_rung(rungs: Sequence[Rung]) -> str:
    """The first rung that fails with its reason, or the highest one; jobs that fail are counted."""
    site = [rung for rung in rungs if not rung.job]
    for rung in site:
        if not rung.ok:
            return f"not {rung.name}{_since(rung.since)}: {rung.reason}"
    stuck = [rung for rung in rungs if rung.job and not rung.ok]
    if stuck:
        first = stuck[0]
        return f"job {first.job}: not {first.name}{_since(first.since)}: {first.reason}"
    return rungs[-1].name if rungs else "-"


def _since(moment: datetime | None) -> str:
    return f" since {ago(moment).removesuffix(' ago')}" if moment else ""


def print_ladder(rungs: Iterable[Rung]) -> None:
    """Every rung, those of each job below a line of their own."""
    job = ""
    for rung in rungs:
        if rung.job != job:
            job = rung.job
            click.echo(f"  job {clean(job)}")
        mark = click.style("yes", fg="green") if rung.ok else click.style("no ", fg="red")
        indent = "    " if job else "  "
        click.echo(f"{indent}{mark}  {clean(f'{rung.name}{_since(rung.since)}  {rung.reason}')}".rstrip())


def print_causes(causes: Sequence[Cause]) -> None:
    """What happened, in order; then the first traceback that a site has let out."""
    for cause in causes:
        at = f"{cause.at:%Y-%m-%d %H:%M:%S} UTC" if cause.at else "since when is not known"
        party = click.style(clean(cause.party), bold=True)
        nature = f" ({cause.nature})" if cause.nature else ""
        click.echo(f"  {at}  {party}  {clean(f'{cause.code}{nature}: {cause.message}')}")
    traces = [cause for cause in causes if cause.traceback]
    if traces:
        click.echo(clean(f"\nthe first traceback, from {traces[0].party}:\n{traces[0].traceback}"))


def print_seen(seen: Sequence[Seen]) -> None:
    """What was last seen of each party."""
    if seen:
        click.echo()
    for line in seen:
        when = ago(line.at) if line.what != "clock" else "now"
        click.echo(clean(f"  {line.party}: {line.what} {when}  {line.text}".rstrip()))


def print_hint(hint: str) -> None:
    """The next thing to type."""
    if hint:
        click.echo(f"{click.style('next:', fg='cyan')} {clean(hint)}")


def print_refused(refused: Sequence[RefusedDocument]) -> None:
    """Whose calls were refused lately."""
    if not refused:
        return
    click.echo(f"\n{tint('refused')} lately")
    rows = [
        (call.claims or call.who, call.looks_like or "-", str(call.count), ago(call.last), call.reason)
        for call in refused
    ]
    print_table(("WHO", "LOOKS LIKE", "CALLS", "LAST", "REASON"), rows)
