# SPDX-License-Identifier: Apache-2.0
"""`flprov job`: submit, watch, abort, download, and ask why."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import (
    complete_app,
    complete_app_or_folder,
    complete_job,
    complete_party,
    complete_sites,
)
from flprov.cli.output import ago, clean, json_option, print_fields, print_json, print_table, size, span, talk
from flprov.cli.progress import JobProgress, bytes_bar, describe_round, files_bar
from flprov.errors import ExitCode, Misuse, ProtocolError
from flprov.wire.documents import DownloadDocument, JobListDocument, JobSiteDocument, WhyDocument

if TYPE_CHECKING:
    from flprov.admin import Admin

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

WAIT_CODES = {"completed": ExitCode.DONE, "degraded": ExitCode.ATTENTION}


@click.group()
def job() -> None:
    """Submit, watch, abort and download jobs.

    An ID may be shortened to a unique prefix; `last` is the newest job.
    """


def parse_settings(pairs: tuple[str, ...]) -> dict[str, str]:
    """What `--set` said. Raises Misuse."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise Misuse(f"--set takes key=value, not {pair!r}", hint="for example: --set rounds=5")
        found[key] = value
    return found


@job.command()
@click.argument("app", shell_complete=complete_app_or_folder)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value of job.yml.")
@click.option(
    "--sites",
    default="",
    metavar="A,B",
    shell_complete=complete_sites,
    help="Only these sites; default: every enrolled one.",
)
@click.option("--min-sites", type=click.IntRange(min=1), help="How many sites a round needs.")
@click.option("--token", default="", help="The same token again gives the same job.")
@click.option("--wait", "waiting", is_flag=True, help="Show the rounds until the job has ended.")
@json_option
def submit(
    app: str,
    settings: tuple[str, ...],
    sites: str,
    min_sites: int | None,
    token: str,
    waiting: bool,
    as_json: bool,
) -> None:
    """Run an app: a folder, or the name or digest of an uploaded one.

    \b
    Examples:
      flprov job submit my-app --wait
      flprov job submit my-app --set rounds=20 --set args.lr=0.1 --sites hospital-a,hospital-b
      flprov job submit heart --min-sites 2 --token nightly-2026-01-31
    """
    chosen = [name.strip() for name in sites.split(",") if name.strip()]
    changes = parse_settings(settings)
    with acting() as admin:
        with bytes_bar(f"uploading {Path(app).name}") as progress:
            found = admin.submit(
                app,
                settings=changes,
                sites=chosen,
                min_sites=min_sites,
                token=token,
                progress=progress,
            )
        if as_json and not waiting:
            print_json(found)
            return
        if not as_json:
            repeated = " (as before, by its token)" if found.repeated else ""
            click.echo(f"job {clean(found.job_id)}{repeated}")
        if waiting:
            _wait(admin, job_id=found.job_id, timeout=None, as_json=as_json)
        else:
            talk(clean(f"watch it: flprov job wait {found.job_id}"))


def _wait(admin: Admin, *, job_id: str, timeout: float | None, as_json: bool) -> None:
    progress = JobProgress()
    try:
        try:
            ended = admin.wait(job_id, timeout=timeout, on_change=progress)
        except KeyboardInterrupt:
            talk(clean(f"the job goes on: flprov job wait {job_id}, or: flprov job abort {job_id}"))
            raise
    finally:
        progress.close()
    if as_json:
        print_json(ended)
    else:
        then = "results: flprov job download" if ended.results else "why: flprov job why"
        talk(clean(f"{then} {ended.id}"))
    raise SystemExit(WAIT_CODES.get(ended.state, ExitCode.FAILED))


@job.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Give up waiting after this."
)
@json_option
def wait(job_id: str, timeout: float | None, as_json: bool) -> None:
    """Show the rounds until the job has ended.

    Exits 0 when it completed, 7 degraded, 1 failed or aborted, 6 when SECONDS ran out.
    """
    with acting() as admin:
        _wait(admin, job_id=job_id, timeout=timeout, as_json=as_json)


@job.command("ls")
@click.argument("name", default="", shell_complete=complete_app)
@json_option
def list_jobs(name: str, as_json: bool) -> None:
    """Every job, newest first; NAME narrows it to one app's."""
    with acting() as admin:
        found = admin.jobs(name)
    if as_json:
        print_json(JobListDocument(jobs=found))
        return
    rows = [
        (
            j.id,
            j.name,
            j.state,
            f"{j.rounds_done}/{j.rounds_total or '?'}",
            str(len(j.sites)),
            ago(j.submitted_at),
            j.submitted_by.rpartition("/")[2],
            clean(j.reason),
        )
        for j in found
    ]
    print_table(("JOB", "NAME", "STATE", "ROUNDS", "SITES", "SUBMITTED", "BY", "REASON"), rows)


@job.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@json_option
def show(job_id: str, as_json: bool) -> None:
    """One job: its sites, and each round with who contributed."""
    with acting() as admin:
        found = admin.job(job_id)
    if as_json:
        print_json(found)
        return
    took = ""
    if found.started_at and found.finished_at:
        took = span((found.finished_at - found.started_at).total_seconds())
    print_fields(
        [
            ("job", found.id),
            ("name", found.name),
            ("state", found.state),
            ("reason", clean(found.reason)),
            ("app", found.app),
            ("submitted", f"{ago(found.submitted_at)} by {found.submitted_by}"),
            ("took", took),
            ("rounds", f"{found.rounds_done} of {found.rounds_total or '?'}"),
            ("not confirmed", ", ".join(found.unconfirmed)),
            ("results", ", ".join(found.results)),
        ]
    )
    click.echo()
    print_table(("SITE", "STATE", "SINCE", "PROGRESS", "REASON"), [_site_row(s) for s in found.sites])
    if found.rounds:
        click.echo()
    for record in found.rounds:
        click.echo(describe_round(record, found.rounds_total))


def _site_row(site: JobSiteDocument) -> tuple[str, str, str, str, str]:
    return (site.site, site.state, ago(site.since), clean(site.progress) or "-", clean(site.reason))


@job.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option(
    "--site",
    default="",
    shell_complete=complete_party,
    help="Only this site's, or `server` for the workflow's.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
def logs(job_id: str, site: str, follow: bool) -> None:
    """What the job's processes printed, at all sites and beside the server."""
    rest: dict[str, bytes] = {}
    with acting() as admin:
        for part in admin.logs(job_id, site=site, follow=follow):
            *lines, rest[part.party] = (rest.get(part.party, b"") + part.data).split(b"\n")
            for line in lines:
                _print_line(part.party, line, alone=bool(site))
    for party, line in rest.items():
        if line:
            _print_line(party, line, alone=bool(site))


def _print_line(party: str, line: bytes, *, alone: bool) -> None:
    text = clean(line.decode(errors="replace"))
    click.echo(text if alone else f"{click.style(clean(party), fg='cyan')} | {text}")


@job.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option("--reason", default="", help="For the record.")
@click.option("--no-wait", is_flag=True, help="Return at once, not when nothing of it runs any more.")
@json_option
def abort(job_id: str, reason: str, no_wait: bool, as_json: bool) -> None:
    """End a job in any state; returns when every process of it is gone, or names who could not confirm."""
    with acting() as admin:
        found = admin.abort(job_id, reason=reason)
        if not no_wait:
            found = admin.wait(found.id)
    if as_json:
        print_json(found)
        return
    click.echo(clean(f"job {found.id} {found.state}"))
    for name in found.unconfirmed:
        talk(f"{clean(name)} could not confirm yet; it aborts the job when it connects again")


@job.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The folder; default: ./ID.")
@json_option
def download(job_id: str, output: Path | None, as_json: bool) -> None:
    """Bring model, metrics, plot, logs and record; resumes where an earlier try broke off."""
    with acting() as admin:
        found = admin.job(job_id)
        target = output or _default_folder(found.id)
        with files_bar() as progress:
            files, no_plot = admin.download(found.id, target, progress=progress)
    if as_json:
        names = tuple(str(path) for path in files)
        print_json(DownloadDocument(job_id=found.id, folder=str(target), files=names, no_plot=no_plot))
        return
    for path in files:
        click.echo(f"{path}  {size(path.stat().st_size)}")
    if no_plot:
        talk(clean(f"no metrics.png: {no_plot}"))


def _default_folder(job_id: str) -> Path:
    """A folder here, whatever the server says that the job's id is."""
    if not _PLAIN.fullmatch(job_id):
        raise ProtocolError(f"the server named a job {job_id[:80]!r}, which has no place here", hint="use -o")
    return Path(job_id)


@job.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@json_option
def why(job_id: str, as_json: bool) -> None:
    """The earliest cause of a job's trouble, or what it waits for, and what to do next."""
    with acting() as admin:
        found = admin.why(job_id)
    if as_json:
        print_json(found)
    else:
        _print_why(found)


def _print_why(found: WhyDocument) -> None:
    click.echo(clean(found.answer))
    for cause in found.causes:
        at = f"{cause.at:%Y-%m-%d %H:%M:%S} UTC" if cause.at else ""
        party = click.style(clean(cause.party), bold=True)
        click.echo(f"  {at}  {party}  {clean(f'{cause.code}: {cause.message}')}")
    traces = [cause for cause in found.causes if cause.traceback]
    if traces:
        click.echo(clean(f"\nthe first traceback, from {traces[0].party}:\n{traces[0].traceback}"))
    if found.hint:
        click.echo(f"{click.style('next:', fg='cyan')} {clean(found.hint)}")
