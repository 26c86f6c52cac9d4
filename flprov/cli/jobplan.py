# SPDX-License-Identifier: Apache-2.0
"""`flprov job plan`: what would come of a job, before it is submitted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_app_or_folder, complete_sites
from flprov.cli.jobwords import parse_settings
from flprov.cli.output import MOST, clean, json_option, print_fields, print_json, print_table, size
from flprov.cli.progress import bytes_bar
from flprov.errors import ExitCode

if TYPE_CHECKING:
    from flprov.wire.documents import JobPlanDocument, JobPlanSite


@click.command("plan")
@click.argument("app", shell_complete=complete_app_or_folder)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value of job.yml.")
@click.option(
    "--sites",
    default="",
    metavar="A,B",
    shell_complete=complete_sites,
    help="Only these sites; default: every enrolled one.",
)
@click.option("--min-sites", type=click.IntRange(1, MOST), help="How many sites a round needs.")
@json_option
def plan_job(app: str, settings: tuple[str, ...], sites: str, min_sites: int | None, as_json: bool) -> None:
    """Say who would run a job, who would refuse it and why, and whether it would start now.

    \b
    Examples:
      flprov job plan my-app
      flprov job plan my-app --set resources.gpus=2 --sites hospital-a,hospital-b
      flprov job plan heart --json | jq -r '.sites[] | select(.verdict != "runs") | .site + ": " + .reason'

    The app is uploaded if it is a folder. No job is made, and nothing is leased. Every connected site is
    asked; one that does not answer within 5 s is shown as silent. Exits 7 if the job would not start now.
    """
    chosen = [name.strip() for name in sites.split(",") if name.strip()]
    changes = parse_settings(settings)
    with acting() as admin, bytes_bar(f"uploading {Path(app).name}") as progress:
        found = admin.plan(app, settings=changes, sites=chosen, min_sites=min_sites, progress=progress)
    if as_json:
        print_json(found)
    else:
        _print_plan(found)
    if not found.starts:
        raise SystemExit(ExitCode.ATTENTION)


def _print_plan(found: JobPlanDocument) -> None:
    needs = f"{found.quorum} of {len(found.sites)} sites"
    if found.required:
        needs += f", {', '.join(found.required)} among them"
    print_fields(
        [
            ("job", clean(found.name)),
            ("starts", "now" if found.starts else clean(f"not now: {found.reason}")),
            ("queue", _queue(found)),
            ("needs", clean(needs)),
            ("server's disk", _disk(found)),
            *([("cost", clean(found.cost))] if found.cost else []),
        ]
    )
    click.echo()
    print_table(("SITE", "VERDICT", "DISK NEEDED", "ROOM", "REASON"), [_row(site) for site in found.sites])
    for site in found.sites:
        for line in site.room.filters if site.room is not None else ():
            click.echo(clean(f"{site.site}: its policy: {line}"))
        for objection in site.objections:
            if objection.hint:
                click.echo(clean(f"{site.site}: {objection.message}  next: {objection.hint}"))


def _queue(found: JobPlanDocument) -> str:
    if not found.position:
        return "it would not wait"
    ahead = "nobody" if not found.ahead else f"{found.ahead} job" + ("s" if found.ahead > 1 else "")
    return f"position {found.position}, behind {ahead}"


def _disk(found: JobPlanDocument) -> str:
    if found.disk is None:
        return "the app's code makes the model: its size is not known before it runs"
    return clean(f"{size(found.disk.needed)} of {size(found.disk.free)} free: {found.disk.text}")


def _row(site: JobPlanSite) -> tuple[str, ...]:
    room = site.room
    left = needed = "-"
    if room is not None:
        gpus = f", {len(room.gpus)} gpu" + ("s" if len(room.gpus) != 1 else "") if room.gpus else ""
        left = f"{room.cpus} cpus, {size(room.memory)} memory, {size(room.disk)} disk{gpus}"
        needed = size(room.disk_needed)
    return (clean(site.site), site.verdict, needed, left, clean(site.reason))
