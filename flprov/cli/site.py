# SPDX-License-Identifier: Apache-2.0
"""`flprov site`: run one (at the hospital), and look at all of them (as an admin)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_site
from flprov.cli.output import ago, clean, json_option, print_fields, print_json, size, until
from flprov.cli.own import ask_own
from flprov.cli.proxies import environment_route
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
@click.option("--health", is_flag=True, help="No output; exit 0 when connected, 4 when not.")
def site_status(kit: Path, as_json: bool, health: bool) -> None:
    """The agent of this kit, asked on its own machine, without any admin kit."""
    from flprov.pki import Kind
    from flprov.wire.documents import SiteStatusDocument

    try:
        found = ask_own(kit, Kind.SITE, SiteStatusDocument)
    except Unavailable:
        if health:
            raise SystemExit(ExitCode.UNREACHABLE) from None
        raise
    code = ExitCode.DONE if found.connected else ExitCode.UNREACHABLE
    if health:
        raise SystemExit(code)
    if as_json:
        print_json(found)
    else:
        _print_own_status(found)
    raise SystemExit(code)


def _print_own_status(found: SiteStatusDocument) -> None:
    link, vitals = found.link, found.vitals
    print_fields(
        [
            ("site", f"{found.name} of {found.org}, project {found.project}"),
            ("server", ", ".join(found.server)),
            ("proxy", "" if found.proxy == "none" else found.proxy),
            ("link", f"{link.state} since {ago(link.since).removesuffix(' ago')}"),
            ("reason", link.reason),
            ("certificate", until(found.cert_not_after)),
            ("policy", found.policy),
            ("site.yml", found.site_settings),
            *(_vital_fields(vitals) if vitals else ()),
            ("jobs", ", ".join(f"{job} ({state})" for job, state in found.jobs.items()) or "none"),
        ]
    )
    for note in vitals.notes if vitals else ():
        click.echo(clean(note))


def _vital_fields(vitals: Vitals) -> list[tuple[str, str]]:
    return [
        ("datasets", ", ".join(vitals.datasets)),
        ("gpus", ", ".join(gpu.name for gpu in vitals.gpus) or vitals.gpu_note),
        ("disk", f"{size(vitals.disk.available)} free"),
        ("confinement", vitals.confinement),
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
