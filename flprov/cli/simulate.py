# SPDX-License-Identifier: Apache-2.0
"""`flprov simulate APP -n SITES`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov._base import from_document, parse_json
from flprov.cli.ending import ending_cleanly
from flprov.cli.garbage import collect_as_usual
from flprov.cli.jobwords import WAIT_CODES, parse_settings
from flprov.cli.output import clean, json_option, print_json, size, talk
from flprov.cli.progress import JobProgress
from flprov.errors import Conflict, ExitCode

if TYPE_CHECKING:
    from flprov.poc import Dataset


@click.command()
@click.argument("app", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-n", "--sites", type=click.IntRange(min=1), default=2, show_default=True, help="How many sites."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where results go; default: ./APP-simulated."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a value of job.yml.")
@click.option(
    "--dataset", "datasets", multiple=True, metavar="[SITE:]NAME=PATH", help="Data for all sites or one."
)
@click.option("--min-sites", type=click.IntRange(min=1), help="How many sites a round needs.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes that the sites share; default: one per processor, or per site up to 8.",
)
@json_option
def simulate(
    app: Path,
    sites: int,
    output: Path | None,
    settings: tuple[str, ...],
    datasets: tuple[str, ...],
    min_sites: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Run an app over sites that exist on this machine only: same checks, same mathematics, no network.

    \b
    Examples:
      flprov simulate my-app -n 8
      flprov simulate my-app -n 1000 --workers 4
      flprov simulate my-app -n 4 --set rounds=20 --dataset heart=/data/heart -o run1
      flprov simulate my-app --dataset site-1:heart=/data/a --dataset site-2:heart=/data/b
    """
    from flprov.simulator import Simulation
    from flprov.simulator import simulate as run

    target = output or Path(f"{app.resolve().name}-simulated")
    if target.exists() and any(target.iterdir()):
        raise Conflict(f"{target} is there already and not empty", hint="name another folder with -o")
    found = _parse_datasets(datasets) if datasets else []
    of_sites = {data.site for data in found if data.site is not None}
    wanted = Simulation(
        app=app,
        sites=sites,
        output=target,
        settings=parse_settings(settings),
        datasets={data.name: data.path for data in found if data.site is None},
        site_datasets={
            site: {data.name: data.path for data in found if data.site == site} for site in of_sites
        },
        min_sites=min_sites,
        workers=workers,
    )
    progress = JobProgress()
    collect_as_usual()
    try:
        with ending_cleanly():
            done, files = run(wanted, on_change=progress)
    finally:
        progress.close()
    if as_json:
        print_json(done)
    else:
        for path in files:
            click.echo(f"{path}  {size(path.stat().st_size)}")
        if done.reason:
            talk(clean(done.reason))
        if done.state not in WAIT_CODES:
            _say_why(files)
    raise SystemExit(WAIT_CODES.get(done.state, ExitCode.FAILED))


def _parse_datasets(texts: Sequence[str]) -> list[Dataset]:
    from flprov.poc import parse_dataset  # late: it brings all that a trial network takes

    return [parse_dataset(text) for text in texts]


def _say_why(files: Sequence[Path]) -> None:
    """What `job why` says of a job on a network: the first traceback, and what to do."""
    record = next((path for path in files if path.name == "record.json"), None)
    if record is None:
        return
    from flprov.wire.documents import Cause

    causes = from_document(tuple[Cause, ...], parse_json(record.read_bytes()).get("causes", []), "causes")
    talk("")
    for cause in causes[:1]:
        if cause.traceback:
            talk(clean(f"the first traceback, from {cause.party}:\n{cause.traceback}"))
        logs = [path for path in files if path.name == f"{cause.party}.log" and path.stat().st_size]
        hint = cause.hint or (f"read {logs[0]}, which has what {cause.party} printed" if logs else "")
        if hint:
            talk(f"{click.style('next:', fg='cyan')} {clean(hint)}")
