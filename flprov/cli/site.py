# SPDX-License-Identifier: Apache-2.0
"""`flprov site`: run one (at the hospital), and look at all of them (as an admin)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.changes import print_change
from flprov.cli.completion import complete_org, complete_site
from flprov.cli.ladder import print_causes, print_hint, print_ladder, print_seen
from flprov.cli.output import ago, clean, json_option, print_fields, print_json, say_warm, size, tint, until
from flprov.cli.own import ask_own
from flprov.cli.proxies import environment_route
from flprov.cli.siteops import drain_site, enable_site, restart_site, stop_site
from flprov.errors import ExitCode, Unavailable

if TYPE_CHECKING:
    from flprov.wire.documents import SiteStatusDocument, Vitals


@click.group()
def site() -> None:
    """Run a site; list and show the project's sites."""


@site.command()
@click.argument("kit", type=click.Path(path_type=Path))
@click.option("-v", "--verbose", is_flag=True, help="Log everything.")
def start(kit: Path, verbose: bool) -> None:
    """Run the agent of this kit in the foreground until SIGTERM; service files call exactly this."""
    from flprov.agent import Agent, load_agent_config
    from flprov.cli.running import run_until_stopped

    config = load_agent_config(kit, now=datetime.now(UTC), route=environment_route())
    run_until_stopped(lambda: Agent(config), verbose=verbose)


@site.command("status")
@click.argument("kit", type=click.Path(path_type=Path))
@json_option
@click.option(
    "--health",
    is_flag=True,
    help="No output; exit 0 when it could take a job, 4 when not connected, 7 when its machine is not ready.",
)
@click.option("--alive", is_flag=True, help="No output; exit 0 when the agent answers, connected or not.")
def site_status(kit: Path, as_json: bool, health: bool, alive: bool) -> None:
    """The agent of this kit, asked on its own machine, without any admin kit."""
    from flprov.pki import Kind
    from flprov.wire.documents import SiteStatusDocument

    try:
        found = ask_own(kit, Kind.SITE, SiteStatusDocument)
    except Unavailable:
        if health or alive:
            raise SystemExit(ExitCode.UNREACHABLE) from None
        raise
    if alive:
        raise SystemExit(ExitCode.DONE)
    if health:
        raise SystemExit(_health(found))
    if as_json:
        print_json(found)
    else:
        _print_own_status(found)
    raise SystemExit(ExitCode.DONE if found.connected else ExitCode.UNREACHABLE)


def _health(found: SiteStatusDocument) -> ExitCode:
    """The ladder as an exit code: could a job start there?"""
    from flprov.wire.documents import environment_rung

    if not found.connected:
        return ExitCode.UNREACHABLE
    return ExitCode.DONE if environment_rung(found.vitals).ok else ExitCode.ATTENTION


def _print_own_status(found: SiteStatusDocument) -> None:
    link, vitals = found.link, found.vitals
    print_fields(
        [
            ("site", f"{found.name} of {found.org}, project {found.project}"),
            ("server", ", ".join(found.server)),
            ("proxy", "" if found.proxy == "none" else found.proxy),
            ("link", f"{link.state} since {ago(link.since).removesuffix(' ago')}"),
            ("reason", "" if found.ladder else link.reason),
            ("certificate", until(found.cert_not_after)),
            *_renewal_fields(found),
            ("policy", found.policy),
            ("site.yml", found.site_settings),
            *(_vital_fields(vitals) if vitals else ()),
            ("jobs", ", ".join(f"{job} ({state})" for job, state in found.jobs.items()) or "none"),
            ("drained", found.drained.removeprefix("drained ")),
            *_witness_fields(found),
        ]
    )
    for note in vitals.notes if vitals else ():
        click.echo(clean(note))
    if found.ladder:
        click.echo()
        print_ladder(found.ladder)
    said = found.why.partition(": ")[2]
    for line in found.retrying:
        if said and line.endswith(said):
            continue
        click.echo(f"{tint('waiting')}: {clean(line)}")
    if found.why:
        click.echo(f"why: {clean(found.why)}")
        print_hint(found.hint)


def _witness_fields(found: SiteStatusDocument) -> list[tuple[str, str]]:
    """What this site has vouched for of the server's log."""
    witness = found.witness
    if witness is None or witness.newest is None:
        return []
    newest = witness.newest
    fields = [("witness", f"of row {newest.index} of the server's log, {ago(newest.at)}")]
    disputed = ", ".join(str(row.index) for row in witness.disputed)
    if disputed:
        fields.append(
            ("disputed", f"the server's log has otherwise now what this site vouched for: row {disputed}")
        )
    return fields


def _renewal_fields(found: SiteStatusDocument) -> list[tuple[str, str]]:
    renewal = found.renewal
    if renewal is None:
        return []
    last = f"last {ago(renewal.last_at)}, " if renewal.last_at else ""
    due = until(renewal.due_at)
    soon = "now" if due == "expired" else f"next in {due.removesuffix(' left')}"
    return [
        (
            "renewal",
            f"failed, and is tried again: {renewal.last_error}" if renewal.last_error else f"{last}{soon}",
        )
    ]


def _vital_fields(vitals: Vitals) -> list[tuple[str, str]]:
    return [
        ("datasets", ", ".join(vitals.datasets)),
        ("gpus", ", ".join(gpu.name for gpu in vitals.gpus) or vitals.gpu_note),
        ("disk", f"{size(vitals.disk.available)} free"),
        ("confinement", vitals.confinement),
        ("warm", say_warm(vitals.warm)),
        ("filters", vitals.filters),
    ]


@site.command("ls")
@json_option
def list_sites(as_json: bool) -> None:
    """Every enrolled site."""
    from flprov.cli.status import print_sites
    from flprov.wire.documents import SiteListDocument

    with acting() as admin:
        found = admin.sites()
    if as_json:
        print_json(SiteListDocument(sites=found))
    else:
        print_sites(found)


@site.command()
@click.argument("name", shell_complete=complete_site)
@json_option
def show(name: str, as_json: bool) -> None:
    """One site with its whole ladder."""
    from flprov.cli.status import print_site

    with acting() as admin:
        found = admin.site(name)
    if as_json:
        print_json(found)
    else:
        print_site(found)


@site.command()
@click.argument("name", shell_complete=complete_site)
@json_option
def why(name: str, as_json: bool) -> None:
    """What keeps a site from running jobs, since when, and what to type next.

    
    Examples:
      flprov site why hospital-a
      flprov site why hospital-a --json | jq -r .hint
    """
    with acting() as admin:
        found = admin.why_site(name)
    if as_json:
        print_json(found)
        return
    click.echo(clean(found.answer))
    print_causes(found.causes)
    print_seen(found.seen)
    print_hint(found.hint)


# ---- changes -------------------------------------------------------------------------------


_reason = click.option("--reason", default="", help="In words; the site reads it, too.")


@site.command()
@click.argument("name")
@click.option(
    "--org", required=True, shell_complete=complete_org, help="The organisation that the site belongs to."
)
@click.option("--reason", default="", help="For the log.")
@json_option
def add(name: str, org: str, reason: str, as_json: bool) -> None:
    """Let the project have one more site, at once and without a restart; an invite gives it its kit.

    \b
    Examples:
      flprov site add hospital-d --org clinic-d
      flprov invite create hospital-d
    A site that is made here and not in project.yml is shown as a difference by `flprov plan`.
    """
    with acting() as admin:
        found = admin.add_site(name, org=org, reason=reason)
    print_change(found, as_json=as_json, already=f"site {name} belongs to the project already")


@site.command("rm")
@click.argument("name", shell_complete=complete_site)
@_reason
@json_option
def remove(name: str, reason: str, as_json: bool) -> None:
    """Take a site out: its certificates and invites are revoked, its calls ended; its history stays.

    \b
    Examples:
      flprov site rm hospital-d --reason "the study is over there"
    To keep a site out for a while only: flprov site lock. The way back: flprov site add, then an invite.
    """
    with acting() as admin:
        found = admin.remove_site(name, reason=reason)
    print_change(found, as_json=as_json, already=f"site {name} was removed already")


@site.command()
@click.argument("name", shell_complete=complete_site)
@_reason
@json_option
def lock(name: str, reason: str, as_json: bool) -> None:
    """Keep a site out until it is unlocked: its calls are ended, its agent goes on asking.

    \b
    Examples:
      flprov site lock hospital-a --reason "updates look wrong, call 4711"
      flprov site unlock hospital-a
    """
    with acting() as admin:
        found = admin.lock_site(name, reason=reason)
    print_change(found, as_json=as_json, already=f"site {name} is locked already")


@site.command()
@click.argument("name", shell_complete=complete_site)
@click.option("--reason", default="", help="For the log.")
@json_option
def unlock(name: str, reason: str, as_json: bool) -> None:
    """Let a locked site come back, which it does by itself within half a minute."""
    with acting() as admin:
        found = admin.unlock_site(name, reason=reason)
    print_change(found, as_json=as_json, already=f"site {name} is not locked")


for _command in (drain_site, enable_site, stop_site, restart_site):
    site.add_command(_command)
