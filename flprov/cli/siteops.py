# SPDX-License-Identifier: Apache-2.0
"""`flprov site drain|enable|stop|restart`, `flprov server drain|enable`: stopping without loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_site
from flprov.cli.output import clean, json_option, print_json, talk
from flprov.errors import ExitCode, SiteUnavailable

if TYPE_CHECKING:
    from flprov.admin import Admin
    from flprov.wire.documents import DrainDocument, SiteOrderDocument

_reason = click.option("--reason", default="", help="In words; status shows it.")
_wait = click.option("--wait", is_flag=True, help="Return when it is safe to stop; Ctrl-C leaves it drained.")


@click.command("drain")
@click.argument("name", shell_complete=complete_site)
@_reason
@_wait
@json_option
def drain_site(name: str, reason: str, wait: bool, as_json: bool) -> None:
    """Give a site no new jobs; those that run there go on. Says when it is safe to stop.

    \b
    Examples:
      flprov site drain hospital-a --reason "new disk on Friday"
      flprov site drain hospital-a --wait && flprov site stop hospital-a
    The way back: flprov site enable hospital-a
    """
    with acting() as admin:
        found = admin.drain_site(name, reason=reason)
        _show_drain(admin, found, wait=wait, as_json=as_json)


@click.command("enable")
@click.argument("name", shell_complete=complete_site)
@click.option("--reason", default="", help="For the log.")
@json_option
def enable_site(name: str, reason: str, as_json: bool) -> None:
    """Let new jobs start at a drained site again; an order to stop it that is open is taken back.

    \b
    Examples:
      flprov site enable hospital-a
    """
    with acting() as admin:
        _print_drain(admin.enable_site(name, reason=reason), as_json=as_json)


@click.command("stop")
@click.argument("name", shell_complete=complete_site)
@click.option("--now", is_flag=True, help="Do not wait until the jobs there are over.")
@_reason
@json_option
def stop_site(name: str, now: bool, reason: str, as_json: bool) -> None:
    """End the agent of a site: drain it, wait until no job runs there, stop it. Returns when it has gone.

    \b
    Examples:
      flprov site stop hospital-a --reason "power cut at 18:00"
      flprov site stop hospital-a --now
      flprov site enable hospital-a          take it back
    Ctrl-C does not take it back: the server goes on waiting. Who starts the agent again: docs/drain.md.
    """
    with acting() as admin:
        _follow(admin.stop_site(name, now=now, reason=reason), as_json=as_json, goal="gone")


@click.command("restart")
@click.argument("name", shell_complete=complete_site)
@_reason
@json_option
def restart_site(name: str, reason: str, as_json: bool) -> None:
    """Start the agent of a site anew while its jobs go on, after an update of flprov, say.

    \b
    Examples:
      flprov site restart hospital-a --reason "flprov 0.2"
    Returns when the agent is back.
    """
    with acting() as admin:
        _follow(admin.restart_site(name, reason=reason), as_json=as_json, goal="back")


@click.command("drain")
@_reason
@_wait
@json_option
def drain_server(reason: str, wait: bool, as_json: bool) -> None:
    """Start no new jobs anywhere; those that run go on, and new ones are accepted and wait.

    \b
    Examples:
      flprov server drain --reason "update tonight"
      flprov server drain --wait
    A restart of the server loses nothing at any time; drain it to have none of its jobs interrupted.
    """
    with acting() as admin:
        found = admin.drain_server(reason=reason)
        _show_drain(admin, found, wait=wait, as_json=as_json)


@click.command("enable")
@click.option("--reason", default="", help="For the log.")
@json_option
def enable_server(reason: str, as_json: bool) -> None:
    """Start jobs again, after a drain or a restore.

    \b
    Examples:
      flprov server enable
    After `flprov server restore` this also says that you have looked at what the backup does not know.
    """
    with acting() as admin:
        _print_drain(admin.enable_server(reason=reason), as_json=as_json)


def _show_drain(admin: Admin, found: DrainDocument, *, wait: bool, as_json: bool) -> None:
    """What was done; with `wait` until it is safe. Exit 7: somebody has enabled it meanwhile."""
    last = found
    if not (as_json and wait):
        _print_drain(found, as_json=as_json)
    if not wait:
        return
    said = found.safe_when
    for last in admin.watch_drain(found.name if found.kind == "site" else ""):
        if last.safe_when != said:
            talk(clean(f"safe to stop {last.safe_when}"))
        said = last.safe_when
    if as_json:
        print_json(last)
    if not last.drained:
        talk(clean(f"{last.kind} {last.name} was enabled meanwhile"))
        raise SystemExit(ExitCode.ATTENTION)


def _print_drain(found: DrainDocument, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    who = f"{found.kind} {found.name}"
    done = found.drained or "enabled"
    click.echo(clean(f"{who} {done}" if found.changed else f"{who} was already {done}; nothing was done"))
    if found.drained:
        click.echo(clean(f"safe to stop {found.safe_when}"))
    for note in found.notes:
        talk(clean(f"note: {note}"))


def _follow(steps: Iterable[SiteOrderDocument], *, as_json: bool, goal: str) -> None:
    """How an order goes; exit 7 when it ended in another way than was asked for."""
    last: SiteOrderDocument | None = None
    for last in steps:
        if not as_json:
            click.echo(clean(last.text))
    if last is None:
        raise SiteUnavailable(
            "this command was carried out before, and nothing is left of it to wait for",
            hint="flprov site ls",
        )
    if as_json:
        print_json(last)
    if last.state != goal:
        raise SystemExit(ExitCode.ATTENTION)
