# SPDX-License-Identifier: Apache-2.0
"""`flprov events`: what happened to jobs and sites, and what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.filters import describe_row, row_filters
from flprov.cli.output import clean, json_option, json_text, print_json, talk

if TYPE_CHECKING:
    from flprov.errors import FlprovError
    from flprov.wire.documents import EventDocument

_LAST = 50


@click.command()
@click.option(
    "--from", "start", type=click.IntRange(1, 2**63 - 1), help="Index of the first; else the last 50."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with each new one until Ctrl-C, also across restarts."
)
@row_filters
@json_option
def events(start: int | None, follow: bool, what: str, about: str, who: str, as_json: bool) -> None:
    """What happened to jobs and sites, oldest first. With --follow --json: one document a line.

    \b
    Examples:
      flprov events
      flprov events --follow --what job.
      flprov events --object hospital-a --json | jq '.events[].reason'
      flprov events --from 1200 --follow --json >> events.jsonl
    """
    from flprov.admin import Wanted

    wanted = Wanted(what=what, object=about, who=who)
    first, last = start or 0, 0 if start else _LAST
    with acting() as admin:
        if follow:
            for event in admin.follow_events(wanted, start=first, last=last, on_retry=_say_retry):
                _print(event, as_json=as_json)
            return
        found = admin.events(wanted, start=first, last=last)
    if as_json:
        print_json(found)
        return
    for event in found.events:
        click.echo(describe_row(event))
    if not found.events:
        talk("no such events")


def _print(event: EventDocument, *, as_json: bool) -> None:
    click.echo(json_text(event) if as_json else describe_row(event))


def _say_retry(error: FlprovError, tries: int, seconds: float) -> None:
    talk(clean(f"{error}; it goes on where it was; try {tries}, next in {seconds:.0f} s"))
