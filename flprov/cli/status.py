# SPDX-License-Identifier: Apache-2.0
"""`flprov status`, and how sites are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.ladder import print_ladder, print_refused, top_rung
from flprov.cli.output import (
    ago,
    clean,
    json_option,
    print_fields,
    print_json,
    print_table,
    say_warm,
    size,
    tint,
    until,
)

if TYPE_CHECKING:
    from flprov.wire.documents import GPU, CertificateWarning, SiteDocument, StatusDocument, TrackingStatus


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
    if server.drained:
        click.echo(clean(f"server {server.drained}; safe to stop {server.safe_when}"))
    print_warnings(server.warnings)
    print_notes(server.notes)
    print_tracking(server.tracking)
    print_notes(
        [f"{line.text}  next: {line.hint}" if line.hint else line.text for line in server.log_warnings]
    )
    click.echo()
    print_sites(found.sites)
    if found.waiting:
        click.echo()
        rows = [(job.id, job.name, job.state, clean(job.reason)) for job in found.waiting]
        print_table(("WAITING", "NAME", "STATE", "REASON"), rows)
    print_refused(found.refused)


def print_warnings(warnings: Sequence[CertificateWarning]) -> None:
    """What ends soon and what to do about it, a line each."""
    for warning in warnings:
        hint = f"  next: {warning.hint}" if warning.hint else ""
        click.echo(f"{tint('warning')}: {clean(f'{warning.text}{hint}')}")


def print_notes(notes: Sequence[str]) -> None:
    """What else an operator should see, a line each."""
    for note in notes:
        click.echo(f"{tint('warning')}: {clean(note)}")


def print_tracking(receivers: Sequence[TrackingStatus]) -> None:
    """Receivers of what jobs tell that do not get it now."""
    for receiver in receivers:
        if receiver.reason:
            words = f"the {receiver.name} receiver has ended {receiver.restarts} times and is started again"
            click.echo(f"{tint('warning')}: {clean(f'{words}: {receiver.reason}')}")


def print_sites(sites: Sequence[SiteDocument]) -> None:
    """One line a site; where the ladder breaks, its reason."""
    rows = [
        (
            site.name,
            site.org,
            site.state,
            clean(_ladder(site)),
            _cpu(site),
            f"{size(site.memory.available)} free" if site.memory else "-",
            f"{size(site.disk.available)} free" if site.disk else "-",
            ", ".join(map(_gpu, site.gpus)) or "-",
            str(len(site.jobs)),
            ago(site.last_seen),
        )
        for site in sites
    ]
    header = ("SITE", "ORG", "STATE", "LADDER", "CPU", "MEMORY", "DISK", "GPUS", "JOBS", "SEEN")
    print_table(header, rows, spare=("MEMORY", "DISK", "CPU", "GPUS"))


def _ladder(site: SiteDocument) -> str:
    top = top_rung(site.ladder)
    return f"{site.drained}; {top}" if site.drained else top


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
            ("warm", say_warm(site.warm)),
            ("jobs", ", ".join(site.jobs)),
            ("drained", site.drained.removeprefix("drained ")),
            ("told", site.order),
            ("safe to stop", site.safe_when),
        ]
    )
    click.echo()
    print_ladder(site.ladder)
    for note in site.notes:
        click.echo(f"  {tint('waiting')}: {clean(note)}")
    print_refused(site.refused)
