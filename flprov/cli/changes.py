# SPDX-License-Identifier: Apache-2.0
"""How a change of a site, a person or a certificate is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flprov.cli.output import clean, print_json, talk

if TYPE_CHECKING:
    from flprov.wire.documents import PartyChangeDocument


def print_change(found: PartyChangeDocument, *, as_json: bool, already: str) -> None:
    """What was done, and what else there is to do; `already`: what to say when there was nothing to do."""
    if as_json:
        print_json(found)
        return
    if not found.changed:
        said = f" ({found.reason})" if found.reason else ""
        click.echo(clean(f"{already}{said}: nothing was done"))
    else:
        click.echo(clean(f"{_what(found)}{_calls(found.ended)}"))
        for serial in found.serials:
            click.echo(clean(f"  certificate {serial} revoked"))
    for note in found.notes:
        talk(clean(f"note: {note}"))


def _what(found: PartyChangeDocument) -> str:
    who = f"{found.kind} {found.name}"
    return f"certificates of {who} revoked" if found.change == "revoked" else f"{who} {found.change}"


def _calls(ended: int) -> str:
    return f"; {ended} open call{'' if ended == 1 else 's'} ended" if ended else ""
