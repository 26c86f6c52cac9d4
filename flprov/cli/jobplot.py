# SPDX-License-Identifier: Apache-2.0
"""`flprov job plot`: a job's curves, per site and global, while it runs and afterwards."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flprov._base import to_document, write_atomic
from flprov.cli.acting import acting
from flprov.cli.completion import complete_job, complete_sites
from flprov.cli.curves import text_curves
from flprov.cli.output import clean, json_option, print_json, talk
from flprov.errors import Conflict, FlprovError, Misuse, NotFound

if TYPE_CHECKING:
    from flprov.admin import Admin
    from flprov.wire import SeriesLine
    from flprov.wire.documents import JobCurves, PlotDocument

_KINDS = (".png", ".svg")
_ENDED = ("completed", "degraded", "failed", "aborted")  # as the terminal ones of flprov.jobs.JobState
_EVERY = 2.0  # seconds between two pictures of a job that is followed


@click.command("plot")
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True, shell_complete=complete_job)
@click.option("-o", "output", type=click.Path(path_type=Path), metavar="FILE", help="A .png or .svg file.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this one; may be repeated.")
@click.option(
    "--sites",
    default="",
    metavar="A,B",
    shell_complete=complete_sites,
    help="Only these, and the global curve.",
)
@click.option("-f", "--follow", is_flag=True, help="Draw again as numbers come, until the job has ended.")
@click.option("--text", "as_text", is_flag=True, help="In the terminal, without matplotlib.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@json_option
def plot(
    job_ids: tuple[str, ...],
    output: Path | None,
    metrics: tuple[str, ...],
    sites: str,
    follow: bool,
    as_text: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Curves of what jobs have told: the metrics of their rounds, and what they log while rounds go on.

    Several jobs are drawn into one picture. Without -o the file is JOB.png; without matplotlib, and with
    --text, the curves are drawn in the terminal.

    \b
    Examples:
      flprov job plot last
      flprov job plot last --follow --metric loss -o loss.svg
      flprov job plot 0k3v 0k7q --metric accuracy -o comparison.png
      flprov job plot last --json
    """
    wanted = tuple(name.strip() for name in sites.split(",") if name.strip())
    if follow and len(job_ids) > 1:
        raise Misuse("--follow draws one job", hint=f"flprov job plot {job_ids[0]} --follow")
    if as_text and output is not None:
        raise Misuse("--text draws in the terminal, -o into a file", hint="leave one of them out")
    if not (as_json or as_text or output) and find_spec("matplotlib") is None:
        talk("matplotlib is not installed here, so the curves are text: pip install 'flprov[plot]'")
        as_text = True
    with acting() as admin:
        if as_json and follow:
            _print_lines(admin, job_ids[0], metrics, wanted)
            return
        show = _Shown(output, force=force, as_json=as_json, as_text=as_text)
        for document in _documents(admin, job_ids, metrics, wanted, follow=follow):
            show.take(document)
        show.finish()


def _documents(
    admin: Admin, job_ids: Sequence[str], metrics: Sequence[str], sites: Sequence[str], *, follow: bool
) -> Iterator[PlotDocument]:
    """What there is to draw; again and again when it is followed."""
    from flprov.admin import make_curves
    from flprov.wire.documents import PlotDocument

    if follow:
        job, lines = admin.job(job_ids[0]), []
        drawn = 0.0
        for part in admin.series(job.id, follow=True, on_retry=_say_retry):
            lines += part
            if time.monotonic() - drawn >= _EVERY:
                yield PlotDocument(jobs=(make_curves(job, lines, names=metrics, sites=sites),))
                drawn = time.monotonic()
        job_ids = [job.id]
    found = []
    for job_id in job_ids:
        job = admin.job(job_id)
        told = [line for part in admin.series(job.id) for line in part]
        found.append(_verified(make_curves(job, told, names=metrics, sites=sites), metrics, sites, told))
    yield PlotDocument(jobs=tuple(found))


def _verified(
    found: JobCurves, metrics: Sequence[str], sites: Sequence[str], told: Sequence[SeriesLine]
) -> JobCurves:
    """The curves, if every name that was asked for is there."""
    from flprov.wire import SeriesPoint

    points = [line for line in told if isinstance(line, SeriesPoint)]
    known = {"metric": {point.name for point in points}, "site": {point.site for point in points} - {""}}
    for kind, wanted in (("metric", metrics), ("site", sites)):
        for name in wanted:
            if name not in known[kind]:
                names = ", ".join(sorted(known[kind])) or "none"
                raise NotFound(
                    f"job {found.job_id} has told no numbers of {kind} {name!r}; it has: {names}",
                    hint=f"flprov job plot {found.job_id} --json",
                )
    return found


def _print_lines(admin: Admin, job_id: str, metrics: Sequence[str], sites: Sequence[str]) -> None:
    """A JSON object per number, as they come."""
    from flprov.admin import is_wanted
    from flprov.wire import SeriesPoint

    for part in admin.series(admin.job(job_id).id, follow=True, on_retry=_say_retry):
        for line in part:
            if isinstance(line, SeriesPoint) and is_wanted(line, metrics, sites):
                click.echo(json.dumps(to_document(line)))


def _say_retry(error: FlprovError, tries: int, seconds: float) -> None:
    talk(f"{clean(str(error))}; it goes on where it was; try {tries}, next in {seconds:.0f} s")


class _Shown:
    """Where the curves go."""

    def __init__(self, output: Path | None, *, force: bool, as_json: bool, as_text: bool) -> None:
        self._output = output
        self._force = force
        self._as_json = as_json
        self._as_text = as_text
        self._last: PlotDocument | None = None
        self._drawn = False

    def take(self, document: PlotDocument) -> None:
        self._last = document
        if self._as_json:
            return
        if self._as_text:
            if self._drawn and sys.stdout.isatty():
                click.clear()
            click.echo(text_curves(document.jobs))
        elif any(job.curves for job in document.jobs):
            self._draw(document)
        self._drawn = True

    def finish(self) -> None:
        assert self._last is not None
        if self._as_json:
            print_json(self._last)
        elif not self._as_text and not any(job.curves for job in self._last.jobs):
            ids = ", ".join(job.job_id for job in self._last.jobs)
            ended = all(job.state in _ENDED for job in self._last.jobs)
            raise NotFound(
                f"{ids} told no numbers" + ("" if ended else " yet"),
                hint=f"flprov job show {self._last.jobs[0].job_id}",
            )
        elif not self._as_text:
            click.echo(str(self._target(self._last)))

    def _target(self, document: PlotDocument) -> Path:
        ids = "-".join(job.job_id for job in document.jobs[:3])  # as the server says them
        return self._output or Path(re.sub(r"[^a-z0-9-]", "_", ids) + ".png")

    def _draw(self, document: PlotDocument) -> None:
        from flprov.admin import draw_curves

        target = self._target(document)
        if target.suffix.lower() not in _KINDS:
            raise Misuse(f"{target} is neither .png nor .svg", hint=f"-o {target.stem or 'curves'}.png")
        if not target.parent.is_dir():
            raise NotFound(f"there is no folder {target.parent}", hint=f"mkdir -p {target.parent}")
        if target.exists() and not (self._force or self._drawn):
            raise Conflict(f"{target} is there already", hint="name another file with -o, or add --force")
        write_atomic(target, draw_curves(document.jobs, target.suffix.lower()[1:]))
