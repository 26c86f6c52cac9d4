# SPDX-License-Identifier: Apache-2.0
"""`flprov poc`: a real network on this machine, for trials."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov.cli.ending import ending_cleanly
from flprov.cli.output import clean, json_option, print_fields, print_json, print_table, talk
from flprov.cli.spans import Span
from flprov.errors import ExitCode, NotFound

if TYPE_CHECKING:
    from flprov.poc import NetworkState, Poc, Starter, UpReport

# This very interpreter and package, whatever PATH says; nothing of the current folder is imported.
_FLPROV = "import sys; sys.path.append(sys.argv.pop(1)); from flprov.cli import main; main()"

_MOST_SITES = 1000  # each is a process of 100 MB
_LONGEST_WAIT = 86_400.0  # seconds

_folder_option = click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Its folder; default: the last.",
)


@click.group()
def poc() -> None:
    """A real network on this machine: server and sites as processes of their own, which outlive the command.

    \b
    Examples:
      flprov poc up -n 3
      flprov job submit my-app --wait
      flprov poc down
    """


@poc.command()
@click.option(
    "-n",
    "--sites",
    type=click.IntRange(min=1, max=_MOST_SITES),
    help="How many sites; default: 2, or as many as it has.",
)
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("poc"),
    metavar="DIR",
    help="Its folder; default: ./poc.",
)
@click.option(
    "--dataset", "datasets", multiple=True, metavar="[SITE:]NAME=PATH", help="Data for all sites or one."
)
@click.option(
    "--timeout",
    type=Span(min=0.1, max=_LONGEST_WAIT),
    default=60.0,
    metavar="SECONDS",
    help="Default: 60.",
)
@json_option
def up(
    sites: int | None,
    folder: Path,
    datasets: tuple[str, ...],
    timeout: float,
    as_json: bool,
) -> None:
    """Make a network and start it, or start one again; returns when every site is connected.

    Identities, jobs and results stay from one time to the next. Its admin kit becomes the current one.

    \b
    Examples:
      flprov poc up
      flprov poc up -n 8 -o /tmp/eight --dataset heart=/data/heart
      flprov poc up --dataset site-1:heart=/data/a --dataset site-2:heart=/data/b
    """
    from flprov.cli.acting import remember
    from flprov.poc import Poc, parse_dataset

    wanted = [parse_dataset(text) for text in datasets]
    network = Poc(folder)
    with ending_cleanly():
        report = network.up(starter(), sites=sites, datasets=wanted, timeout=timeout, on_ready=_tell_ready)
    remember(network.admin_kit)
    _remember_folder(network.place.folder)
    if as_json:
        print_json(report)
    else:
        _print_up(report)


def starter() -> Starter:
    """How this flprov starts another of itself."""
    import flprov
    from flprov.poc import Starter

    package = Path(flprov.__file__).resolve().parents[1]
    return Starter(command=(sys.executable, "-P", "-c", _FLPROV, str(package)), environment=dict(os.environ))


def _tell_ready(name: str, seconds: float) -> None:
    talk(f"  {name} ready after {seconds:.1f} s")


def _print_up(report: UpReport) -> None:
    if report.started:
        verb = "made and started" if report.created else "started"
        click.echo(f"{verb} {', '.join(report.started)} in {report.ready_after:.1f} s")
    else:
        click.echo("this network runs already")
    click.echo(f"the server is at {report.endpoint}")
    click.echo(f"in {report.folder}; the logs are in {report.folder}/logs")
    for path in report.written:
        note = ": everybody of this project may run any job there" if path.endswith("policy.yml") else ""
        click.echo(f"wrote {path}{note}")
    click.echo(f"acting as {Path(report.admin_kit).name}: {report.admin_kit}")
    talk("next: flprov status; flprov job submit APP --wait; flprov poc down")


@poc.command()
@_folder_option
@json_option
def status(folder: Path | None, as_json: bool) -> None:
    """The processes of the network and what each says of itself. Exit 0: all is connected, else 4."""
    found = _network(folder).state()
    if as_json:
        print_json(found)
    else:
        _print_state(found)
    if found.state != "running":
        raise SystemExit(ExitCode.UNREACHABLE)


def _print_state(found: NetworkState) -> None:
    print_fields([("network", found.folder), ("state", found.state), ("server", found.endpoint)])
    click.echo()
    rows = [
        (p.name, p.state, str(p.pid or "-"), clean(p.reason), clean(p.metrics), p.log) for p in found.parties
    ]
    print_table(("NAME", "STATE", "PID", "REASON", "METRICS", "LOG"), rows)
    if found.state != "running":
        talk(f"start what does not run: flprov poc up -o {found.folder}")


@poc.command()
@_folder_option
@click.option(
    "--delete",
    is_flag=True,
    help="Remove its files too: identities, jobs, results; a project.yml that you have written stays.",
)
@json_option
def down(folder: Path | None, delete: bool, as_json: bool) -> None:
    """End every process of the network, those of jobs too; returns when none is left. The data stay."""
    from flprov.cli.acting import forget

    network = _network(folder)
    kit = network.admin_kit
    report = network.down(delete=delete)
    if delete:
        forget(kit)
        _forget_folder(network.place.folder)
    if as_json:
        print_json(report)
        return
    for name in report.killed:
        talk(f"{name} did not end when asked and was killed")
    if report.job_processes:
        talk(f"processes of jobs that were ended: {len(report.job_processes)}")
    if report.stopped:
        click.echo(f"stopped {', '.join(report.stopped)} in {report.seconds:.1f} s; no process is left")
    else:
        click.echo("nothing ran")
    if not delete:
        click.echo(f"everything is kept in {report.folder}")
    elif Path(report.folder).exists():
        click.echo(f"the network in {report.folder} was removed; what you have put there is kept")
    else:
        click.echo(f"{report.folder} was removed")


def _network(folder: Path | None) -> Poc:
    """The network in this folder, or else the one that `up` started last."""
    from flprov.cli.acting import kept_path
    from flprov.poc import Poc

    path = folder or kept_path(_folder_file())
    if path is not None:
        return Poc(path)
    raise NotFound(
        "no network was started on this machine", hint="flprov poc up   (or name its folder: -o DIR)"
    )


def _folder_file() -> Path:
    from flprov.cli.acting import choice_file

    return choice_file().with_name("poc")


def _remember_folder(folder: Path) -> None:
    from flprov.cli.acting import keep_path

    keep_path(_folder_file(), folder)


def _forget_folder(folder: Path) -> None:
    from flprov.cli.acting import kept_path

    if kept_path(_folder_file()) == folder:
        _folder_file().unlink()
