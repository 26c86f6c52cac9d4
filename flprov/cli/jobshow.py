# SPDX-License-Identifier: Apache-2.0
"""`flprov job ls` and `flprov job show`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import complete_app, complete_job
from flprov.cli.output import (
    MOST,
    ago,
    clean,
    json_option,
    print_fields,
    print_json,
    print_table,
    size,
    span,
    talk,
)
from flprov.cli.progress import describe_round

if TYPE_CHECKING:
    from flprov.wire.documents import Contribution, JobDocument, JobSiteDocument, RoundDocument

STATES = (
    "queued",
    "deploying",
    "running",
    "finishing",
    "completed",
    "degraded",
    "failed",
    "aborting",
    "aborted",
)  # as flprov.jobs.JobState, which costs too much to load for --help
_PENDING = frozenset({"queued", "deploying"})
_MOST_REASONS = 5  # sites below a job in a list
_NEWEST = 50
_MOST_ROUNDS_SHOWN = 20  # the newest, a line each
_MOST_ROUNDS = 10  # that are named one by one as missed


@click.command("ls")
@click.argument("name", default="", shell_complete=complete_app)
@click.option(
    "-n", "count", type=click.IntRange(1, MOST), metavar="N", help=f"The newest N; default: {_NEWEST}."
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@json_option
def list_jobs(name: str, count: int | None, everything: bool, state: str | None, as_json: bool) -> None:
    """The newest jobs first; NAME narrows them to one app's.

    \b
    Examples:
      flprov job ls
      flprov job ls heart -n 10 --state failed
      flprov job ls --all --json
    """
    limit = None if everything else count or _NEWEST
    with acting() as admin:
        found = admin.list_jobs(name, state=state or "", limit=limit)
    if as_json:
        print_json(found)
        return
    header = ("JOB", "NAME", "STATE", "ROUNDS", "SITES", "SUBMITTED", "BY", "REASON")
    print_table(header, [row for job in found.jobs for row in _rows(job)])
    if found.more:
        talk(f"older jobs are not shown: flprov job ls -n {len(found.jobs) * 2}, or --all")


def _rows(job: JobDocument) -> Iterator[tuple[str, ...]]:
    yield (
        job.id,
        job.name,
        job.state,
        f"{job.rounds_done}/{job.rounds_total or '?'}",
        str(len(job.sites)),
        ago(job.submitted_at),
        job.submitted_by.rpartition("/")[2],
        clean(job.reason),
    )
    if job.state not in _PENDING:
        return
    lacking = [site for site in job.sites if site.reason]
    for site in lacking[:_MOST_REASONS]:
        yield (*[""] * 7, clean(f"  {site.site}: {site.reason}"))
    if len(lacking) > _MOST_REASONS:
        yield (*[""] * 7, f"  and {len(lacking) - _MOST_REASONS} more sites: flprov job show {job.id}")


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@json_option
def show(job_id: str, as_json: bool) -> None:
    """One job: its sites, and each round with who contributed.

    \b
    Examples:
      flprov job show last
      flprov job show 0k3v --json
    """
    with acting() as admin:
        found = admin.job(job_id)
    if as_json:
        print_json(found)
        return
    print_fields(_fields(found))
    click.echo()
    print_table(("SITE", "STATE", "SINCE", "PROGRESS", "REASON"), [_site_row(s) for s in found.sites])
    if any(line.rounds or line.missed for line in found.contributions):
        click.echo()
        lines = [_contribution_row(line) for line in found.contributions]
        print_table(("CONTRIBUTED", "ROUNDS", "SAMPLES", "MISSED"), lines)
    if found.rounds:
        click.echo()
    if len(found.rounds) > _MOST_ROUNDS_SHOWN:
        click.echo(clean(f"  rounds before these {_MOST_ROUNDS_SHOWN}: flprov job show {found.id} --json"))
    for record in found.rounds[-_MOST_ROUNDS_SHOWN:]:
        click.echo(_round_line(record, found.rounds_total))


def _fields(job: JobDocument) -> list[tuple[str, str]]:
    took = ""
    if job.started_at and job.finished_at:
        took = span((job.finished_at - job.started_at).total_seconds())
    origin = ""
    if job.origin is not None:
        after = f" after {job.origin.round} rounds" if job.origin.round else ""
        origin = f"{job.origin.job_id}{after}"
    kept = [record.round + 1 for record in job.rounds if record.checkpoint]
    return [
        ("job", job.id),
        ("name", job.name),
        ("state", job.state),
        ("reason", clean(job.reason)),
        ("app", job.app),
        ("clone of", clean(origin)),
        ("submitted", f"{ago(job.submitted_at)} by {job.submitted_by}"),
        ("took", took),
        ("rounds", f"{job.rounds_done} of {job.rounds_total or '?'}"),
        ("workflow", clean(job.doing)),
        ("checkpoints", f"after {', '.join(map(str, kept))} round{'s' * (kept != [1])}" if kept else ""),
        ("not confirmed", ", ".join(job.unconfirmed)),
        ("results", ", ".join(job.results)),
    ]


def _site_row(site: JobSiteDocument) -> tuple[str, str, str, str, str]:
    progress = site.progress
    if site.doing and site.bytes_total:
        progress = f"{site.doing}, {size(site.bytes_done)} of {size(site.bytes_total)}, {ago(site.at)}"
    elif site.at is not None and not site.doing:
        progress = f"step {site.step}, {ago(site.at)}"
    reasons = [site.reason] if site.reason else []
    reasons += [f"freed: {', '.join(site.freed)}"] if site.freed else []
    reasons += [f"{site.late} too late"] if site.late else []
    return (site.site, site.state, ago(site.since), clean(progress) or "-", clean("; ".join(reasons)))


def _contribution_row(line: Contribution) -> tuple[str, str, str, str]:
    numbers = ", ".join(str(number + 1) for number in line.missed[:_MOST_ROUNDS])
    more = f" and {len(line.missed) - _MOST_ROUNDS} more" if len(line.missed) > _MOST_ROUNDS else ""
    why = f" ({'; '.join(line.reasons)})" if line.reasons else ""
    missed = f"{numbers}{more}{why}" if line.missed else "-"
    return (line.site, str(line.rounds), f"{line.samples:,}", clean(missed))


def _round_line(record: RoundDocument, total: int | None) -> str:
    spared = clean(f"  not waited for: {', '.join(record.spared)}") if record.spared else ""
    return describe_round(record, total) + spared + ("  checkpoint" if record.checkpoint else "")
