# SPDX-License-Identifier: Apache-2.0
"""`flprov job`: submit, clone, watch, abort, download, delete, and ask why. Lists: jobshow.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.acting import acting
from flprov.cli.completion import (
    complete_app_or_folder,
    complete_job,
    complete_sites,
)
from flprov.cli.jobwords import WAIT_CODES, parse_settings
from flprov.cli.ladder import print_causes, print_hint, print_seen
from flprov.cli.lazy import Entry, LazyGroup
from flprov.cli.output import MOST, clean, json_option, print_json, size, talk
from flprov.cli.progress import JobProgress, bytes_bar, files_bar
from flprov.cli.spans import Span
from flprov.errors import ExitCode, FlprovError, ProtocolError

if TYPE_CHECKING:
    from flprov.admin import Admin
    from flprov.wire.documents import SubmitDocument, WhyDocument

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


ENTRIES = {
    "abort": Entry(
        target="job:abort",
        help="End a job in any state; returns when every process of it is gone, or names who could "
        "not confirm.",
    ),
    "clone": Entry(
        target="job:clone",
        help="Run a job once more: the same code, from the start or from one of its checkpoints.",
    ),
    "delete": Entry(
        target="job:delete",
        help="Remove a job that has ended: its record, rounds, checkpoints, results and logs.",
    ),
    "download": Entry(
        target="job:download",
        help="Bring model, metrics, plot, logs and record; resumes where an earlier try broke off.",
    ),
    "logs": Entry(
        target="joblogs:logs",
        help="What the job's processes printed, at all sites and beside the server.",
    ),
    "ls": Entry(target="jobshow:list_jobs", help="The newest jobs first; NAME narrows them to one app's."),
    "plan": Entry(
        target="jobplan:plan_job",
        help="Say who would run a job, who would refuse it and why, and whether it would start now.",
    ),
    "plot": Entry(
        target="jobplot:plot",
        help="Curves of what jobs have told: the metrics of their rounds, and what they log while "
        "rounds go on.",
    ),
    "show": Entry(target="jobshow:show", help="One job: its sites, and each round with who contributed."),
    "submit": Entry(
        target="job:submit", help="Run an app: a folder, or the name or digest of an uploaded one."
    ),
    "wait": Entry(target="job:wait", help="Show the rounds until the job has ended."),
    "why": Entry(
        target="job:why",
        help="The earliest cause of a job's trouble, or what it waits for, and what to do next.",
    ),
}


@click.group(cls=LazyGroup, entries=ENTRIES)
def job() -> None:
    """Submit, watch, abort and download jobs.

    An ID may be shortened to a unique prefix; `last` is the newest job.
    """


@click.command()
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
        _submitted(admin, found, waiting=waiting, as_json=as_json)


def _submitted(admin: Admin, found: SubmitDocument, *, waiting: bool, as_json: bool) -> None:
    if as_json and not waiting:
        print_json(found)
        return
    if not as_json:
        repeated = " (as before, by its token)" if found.repeated else ""
        click.echo(f"job {clean(found.job_id)}{repeated}")
        if found.cost:
            talk(clean(found.cost))
    if waiting:
        _wait(admin, job_id=found.job_id, timeout=None, as_json=as_json)
    else:
        talk(clean(f"watch it: flprov job wait {found.job_id}"))


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option(
    "--from-round",
    type=click.IntRange(min=0),
    metavar="R",
    help="Go on from the state saved after R rounds; default: from the start.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value of the job.")
@click.option(
    "--sites",
    default="",
    metavar="A,B",
    shell_complete=complete_sites,
    help="Only these sites; default: those of the job.",
)
@click.option("--min-sites", type=click.IntRange(1, MOST), help="How many sites a round needs.")
@click.option("--token", default="", help="The same token again gives the same clone.")
@click.option("--wait", "waiting", is_flag=True, help="Show the rounds until the clone has ended.")
@json_option
def clone(
    job_id: str,
    from_round: int | None,
    settings: tuple[str, ...],
    sites: str,
    min_sites: int | None,
    token: str,
    waiting: bool,
    as_json: bool,
) -> None:
    """Run a job once more: the same code, from the start or from one of its checkpoints.

    \b
    Examples:
      flprov job clone last
      flprov job clone last --from-round 12 --set rounds=40
      flprov job clone 0k3v --from-round 5 --sites hospital-a,hospital-b --min-sites 2 --wait

    `flprov job show ID` says after which rounds there is a checkpoint.
    """
    chosen = [name.strip() for name in sites.split(",") if name.strip()]
    changes = parse_settings(settings)
    with acting() as admin:
        found = admin.clone(
            job_id, from_round=from_round, settings=changes, sites=chosen, min_sites=min_sites, token=token
        )
        _submitted(admin, found, waiting=waiting, as_json=as_json)


def _say_retry(error: FlprovError, tries: int, seconds: float) -> None:
    talk(clean(f"{error}; the job goes on; try {tries}, next in {seconds:.0f} s"))


def _wait(admin: Admin, *, job_id: str, timeout: float | None, as_json: bool) -> None:
    progress = JobProgress()
    try:
        try:
            ended = admin.wait(job_id, timeout=timeout, on_change=progress, on_retry=_say_retry)
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


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option("--timeout", type=Span(min=0), metavar="SECONDS", help="Give up waiting after this.")
@json_option
def wait(job_id: str, timeout: float | None, as_json: bool) -> None:
    """Show the rounds until the job has ended.

    Exits 0 when it completed, 7 degraded, 1 failed or aborted, 6 when SECONDS ran out.
    """
    with acting() as admin:
        _wait(admin, job_id=job_id, timeout=timeout, as_json=as_json)


@click.command()
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


@click.command()
@click.argument("job_id", metavar="ID", shell_complete=complete_job)
@click.option("--reason", default="", help="For the record.")
@json_option
def delete(job_id: str, reason: str, as_json: bool) -> None:
    """Remove a job that has ended: its record, rounds, checkpoints, results and logs.

    \b
    Examples:
      flprov job delete 0k3v2m
      flprov job delete 0k3v --reason "consent was withdrawn"

    Its token stays used, and the log keeps that it was there and who removed it.
    """
    with acting() as admin:
        found = admin.delete_job(job_id, reason=reason)
    if as_json:
        print_json(found)
        return
    click.echo(clean(f"job {found.job_id} deleted, with {found.rounds} rounds"))


@click.command()
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
        from flprov.wire.documents import DownloadDocument

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


@click.command()
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
    print_causes(found.causes)
    print_seen(found.seen)
    print_hint(found.hint)
