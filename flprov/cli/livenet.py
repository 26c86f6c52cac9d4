# SPDX-License-Identifier: Apache-2.0
"""What `plan` and `provision` have to do with the live network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.output import clean, talk
from flprov.errors import FlprovError, Misuse
from flprov.kits import Plan

if TYPE_CHECKING:
    from flprov.admin import Admin
    from flprov.wire.documents import LiveDifference, LivePlan

_SIGNS = {"add": "+", "remove": "-", "publish": "~", "list": "~", "": "!"}


def ask_live(plan: Plan, *, wanted: bool | None) -> LivePlan | None:
    """Where the live network differs. None: nobody asked for it, or the chosen kit is of another project.

    Args:
        plan: what provisioning would do.
        wanted: None: ask if the chosen admin kit is of this project; what goes wrong is a note.

    Raises:
        FlprovError: it was asked for, and cannot be done.
    """
    if wanted is False or plan.authorities is None:
        return None
    project_id = plan.authorities.record.project_id
    try:
        with _admin_of(project_id, quiet=wanted is None) as admin:
            if admin is None:
                return None
            from flprov.admin import look_at_live

            return look_at_live(admin, plan)
    except FlprovError as error:
        if wanted:
            raise
        from flprov.wire.documents import LivePlan

        return LivePlan(asked=False, note=f"the live network was not looked at: {error}")


@contextlib.contextmanager
def _admin_of(project_id: str, *, quiet: bool) -> Iterator[Admin | None]:
    """The chosen admin; with `quiet` None if there is none for this project, and nobody is asked anything."""
    from flprov.cli.acting import acting, current_kit
    from flprov.cli.passphrases import environment_kit_passphrase
    from flprov.kits import look_at_kit

    if not quiet:
        with acting() as admin:
            if admin.kit.project_id != project_id:
                raise Misuse(
                    f"the admin kit {admin.kit.folder} is of another project, {admin.kit.project}",
                    hint="choose an admin kit of this project: --kit KIT, or flprov use KIT",
                )
            yield admin
        return
    try:
        folder = current_kit()
        is_ours = look_at_kit(folder, now=datetime.now(UTC)).project_id == project_id
    except FlprovError:
        is_ours = False
    if not is_ours:
        yield None
        return
    from flprov.admin import open_admin
    from flprov.cli.proxies import environment_route

    with open_admin(folder, passphrase=environment_kit_passphrase(), route=environment_route()) as admin:
        yield admin


def print_live(found: LivePlan) -> None:
    """The differences, a line each."""
    if not found.asked:
        talk(clean(f"note: {found.note}"))
        return
    if not found.differences:
        click.echo(f"the live network is as the file says (trust bundle {found.version})")
        return
    click.echo("the live network:")
    for difference in found.differences:
        click.echo(clean(f"  {_SIGNS[difference.action]} {difference.text}{_what_to_do(difference)}"))


def _what_to_do(difference: LiveDifference) -> str:
    if difference.action:
        return "; `flprov provision --live` does it"
    return f"; {difference.hint}" if difference.hint else ""


def bring_to_live(admin: Admin, plan: Plan, folder: Path) -> tuple[str, ...]:
    """After provisioning: everything that the differences ask for; what is left to people is told."""
    from flprov.admin import apply_live, look_at_live
    from flprov.kits import read_publication

    found = look_at_live(admin, plan)
    orgs = {site.name: site.org for site in plan.project.sites}
    publication = read_publication(plan.project, folder)
    done = []
    for words in apply_live(admin, found.differences, orgs, publication):
        talk(clean(f"live: {words}"))
        done.append(words)
    for difference in found.differences:
        if not difference.action:
            talk(clean(f"live: {difference.text}{_what_to_do(difference)}"))
    return tuple(done)
