# SPDX-License-Identifier: Apache-2.0
"""`flprov status`, and how sites are shown."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flprov.cli.acting import acting
from flprov.cli.output import (
    ago,
    clean,
    json_option,
    print_fields,
    print_json,
    print_table,
    size,
    span,
    tint,
    until,
)
from flprov.wire.documents import GPU, CertificateWarning, SiteDocument, StatusDocument


@click.command()
@json_option
def status(as_json: bool) -> None:
    """The server and every site, as they are now.

    \b
    Examples:
      flprov status
      flprov status --json | jq '.sites[] | select(.state != "connected").name'
    """
    with acting() as admin:
        found = admin.status()
    if as_json:
        print_json(found)
    else:
        print_status(found)


def print_status(found: StatusDocument) -> None:
    """The whole, for a person."""
    server = found.server
    line = (
        f"  server {server.name} {server.listen}"
        f"  up {ago(server.started_at).removesuffix(' ago')}  flprov {server.version}"
        f"  jobs {server.jobs_running} running, {server.jobs_queued} queued"
        f"  certificate {until(server.cert_not_after)}"
    )
    click.echo(click.style(clean(server.project), bold=True) + clean(line))
    if server.disk:
        click.echo(clean(f"disk {size(server.disk.available)} free  confinement {server.confinement}"))
    print_warnings(server.warnings)
    click.echo()
    print_sites(found.sites)


def print_warnings(warnings: Sequence[CertificateWarning]) -> None:
    """What ends soon and what to do about it, a line each."""
    for warning in warnings:
        hint = f"  next: {warning.hint}" if warning.hint else ""
        click.echo(f"{tint('warning')}: {clean(f'{warning.text}{hint}')}")


def print_sites(sites: Sequence[SiteDocument]) -> None:
    """One line a site; where the ladder breaks, its reason."""
    rows = [
        (
            site.name,
            site.org,
            site.state,
            clean(_rung(site)),
            _cpu(site),
            f"{size(site.memory.available)} free" if site.memory else "-",
            f"{size(site.disk.available)} free" if site.disk else "-",
            _gpus(site),
            str(len(site.jobs)),
            ago(site.last_seen),
        )
        for site in sites
    ]
    header = ("SITE", "ORG", "STATE", "LADDER", "CPU", "MEMORY", "DISK", "GPUS", "JOBS", "SEEN")
    print_table(header, rows)


def _rung(site: SiteDocument) -> str:
    """The first rung that fails with its reason, or the highest one."""
    for rung in site.ladder:
        if not rung.ok:
            return f"not {rung.name}: {rung.reason}"
    return site.ladder[-1].name if site.ladder else "-"


def _cpu(site: SiteDocument) -> str:
    return f"{site.cpu.percent:.0f}% of {site.cpu.count}" if site.cpu else "-"


def _gpus(site: SiteDocument) -> str:
    if site.gpus:
        return ", ".join(_gpu(gpu) for gpu in site.gpus)
    return f"none ({site.gpu_note})" if site.gpu_note else "-"


def _gpu(gpu: GPU) -> str:
    used = f"{gpu.memory_used / 2**30:.0f}/{gpu.memory_total / 2**30:.0f} GiB"
    return f"{gpu.index}: {gpu.name} {used}"


def print_site(site: SiteDocument) -> None:
    """One site with its whole ladder."""
    print_fields(
        [
            ("site", site.name),
            ("organisation", site.org),
            ("state", site.state),
            ("host", clean(site.host)),
            ("last seen", ago(site.last_seen)),
            ("flprov", site.version),
            ("certificate", until(site.cert_not_after)),
            ("cpu", _cpu(site)),
            (
                "memory",
                f"{size(site.memory.available)} of {size(site.memory.total)} free" if site.memory else "",
            ),
            ("disk", f"{size(site.disk.available)} of {size(site.disk.total)} free" if site.disk else ""),
            ("gpus", _gpus(site)),
            ("datasets", ", ".join(site.datasets)),
            ("confinement", site.confinement),
            ("jobs", ", ".join(site.jobs)),
        ]
    )
    click.echo()
    for rung in site.ladder:
        mark = click.style("yes", fg="green") if rung.ok else click.style("no ", fg="red")
        since = (
            f" since {span(0) if rung.since is None else ago(rung.since).removesuffix(' ago')}"
            if rung.since
            else ""
        )
        click.echo(f"  {mark}  {clean(f'{rung.name}{since}  {rung.reason}')}".rstrip())
    for note in site.notes:
        click.echo(f"  {tint('waiting')}: {clean(note)}")
