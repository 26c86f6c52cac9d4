# SPDX-License-Identifier: Apache-2.0
"""`flprov site`: run one (at the hospital), and look at all of them (as an admin)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_site
from flprov.cli.output import ago, clean, json_option, print_fields, print_json, size, until
from flprov.errors import ExitCode


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

    config = load_agent_config(kit, now=datetime.now(UTC))
    run_until_stopped(lambda: Agent(config), verbose=verbose)


@site.command("status")
@click.argument("kit", type=click.Path(path_type=Path))
@json_option
@click.option("--health", is_flag=True, help="No output; exit 0 when connected, 4 when not.")
def site_status(kit: Path, as_json: bool, health: bool) -> None:
    """The agent of this kit, asked on its own machine, without any admin kit."""
    from flprov._base import parse_json
    from flprov.kits import load_kit
    from flprov.pki import Kind
    from flprov.rpc import ask_local

    loaded = load_kit(kit, now=datetime.now(UTC), kind=Kind.SITE)
    answer = ask_local(
        loaded.local / "state", what=f"the agent of {loaded.name}", hint=f"flprov site start {kit}"
    )
    found = parse_json(answer)
    if health:
        raise SystemExit(ExitCode.DONE if found["connected"] else ExitCode.UNREACHABLE)
    if as_json:
        print_json(found)
    else:
        _print_own_status(found)
    if not found["connected"]:
        raise SystemExit(ExitCode.UNREACHABLE)


def _print_own_status(found: dict[str, Any]) -> None:
    from flprov._base import from_iso

    link, vitals = found["link"], found["vitals"] or {}
    disk, gpus = vitals.get("disk"), vitals.get("gpus", [])
    print_fields(
        [
            ("site", f"{found['name']} of {found['org']}, project {found['project']}"),
            ("server", ", ".join(found["server"])),
            ("link", f"{link['state']} since {ago(from_iso(link['since'])).removesuffix(' ago')}"),
            ("reason", clean(link["reason"])),
            ("certificate", until(from_iso(found["cert_not_after"]))),
            ("policy", found["policy"]),
            ("site.yml", found["site_settings"]),
            ("datasets", ", ".join(vitals.get("datasets", []))),
            ("gpus", ", ".join(gpu["name"] for gpu in gpus) or vitals.get("gpu_note", "")),
            ("disk", f"{size(disk['available'])} free" if disk else ""),
            ("confinement", vitals.get("confinement", "")),
            ("jobs", ", ".join(f"{job} ({state})" for job, state in found["jobs"].items()) or "none"),
        ]
    )
    for note in vitals.get("notes", []):
        click.echo(clean(note))


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
