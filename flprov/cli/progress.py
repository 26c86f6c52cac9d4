# SPDX-License-Identifier: Apache-2.0
"""Progress for people: bars on stderr when it is a terminal, plain lines otherwise where they help."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from flprov.cli.output import clean, on_terminal, size, talk

if TYPE_CHECKING:
    from flprov.wire.documents import JobDocument, JobSiteDocument, RoundDocument

_BAR = 30  # characters


@contextlib.contextmanager
def bytes_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes; silent when nobody watches."""
    if not on_terminal():
        yield lambda done, total: None  # noqa: ARG005
        return
    with click.progressbar(length=1, label=label, file=sys.stderr, show_pos=False) as bar:

        def update(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield update
        bar.update(bar.length - bar.pos if bar.length else 0)


@contextlib.contextmanager
def rows_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over rows of the log; silent when nobody watches."""
    with bytes_bar(label) as update:
        yield update


@contextlib.contextmanager
def files_bar() -> Iterator[Callable[[str, int, int], None]]:
    """One bar after another, a file each."""
    bars = contextlib.ExitStack()
    current: list[str] = []
    updates: list[Callable[[int, int], None]] = []

    def update(name: str, done: int, total: int) -> None:
        if current != [name]:
            bars.close()
            current[:] = [name]
            updates[:] = [bars.enter_context(bytes_bar(name.ljust(24)))]
        updates[0](done, total)

    with bars:
        yield update


class JobProgress:
    """Follows a job: a line per round; on a terminal a bar of rounds, and how far each site is."""

    def __init__(self) -> None:
        self._shown = 0
        self._state = ("", "")
        self._bar_open = False

    def __call__(self, job: JobDocument) -> None:
        """The job has changed."""
        said = "" if job.state == "deploying" else job.reason  # which changes with each site that is ready
        if (job.state, said) != self._state:
            self._state = (job.state, said)
            self._clear()
            reason = f": {said}" if said else ""
            talk(clean(f"{job.name} {job.id} {job.state}{reason}"))
        for record in job.rounds[self._shown :]:
            self._clear()
            talk(describe_round(record, job.rounds_total))
        self._shown = len(job.rounds)
        if on_terminal() and job.rounds_total and job.state == "running":
            self._draw(job, job.rounds_total)

    def close(self) -> None:
        """Leave the line."""
        self._clear()

    def _draw(self, job: JobDocument, total: int) -> None:
        full = _BAR * job.rounds_done // total
        running = describe_running(job)
        bar = f"[{'#' * full}{'-' * (_BAR - full)}] {job.rounds_done}/{total} rounds"
        line = clean(f"  {bar}{f'  {running}' if running else ''}")
        click.echo(f"\r\033[K{_fitting(line)}", nl=False, err=True)
        self._bar_open = True

    def _clear(self) -> None:
        if self._bar_open:
            click.echo("\r\033[K", nl=False, err=True)
            self._bar_open = False


def _fitting(line: str) -> str:
    """What of it has room in one line: a longer one could not be drawn over."""
    width = shutil.get_terminal_size().columns - 1
    return line if len(line) <= width else f"{line[: width - 3]}..."


def describe_running(job: JobDocument) -> str:
    """`round 4: site-1 has answered, site-2 step 120, site-3 sending update 4.0 MB of 10.0 MB`."""
    parts = [f"{site.site} {_how_far(site)}" for site in job.sites]
    parts = [*([job.doing] if job.doing else []), *parts]
    return f"round {job.rounds_done + 1}: {', '.join(parts)}" if parts else ""


def _how_far(site: JobSiteDocument) -> str:
    if site.answered:
        return "has answered"
    if site.doing and site.bytes_total:
        return f"{site.doing} {size(site.bytes_done)} of {size(site.bytes_total)}"
    if site.doing:
        return site.doing
    at_work = site.state in ("training", "stalled") and site.step
    return f"step {site.step}" + (" (stalled)" if site.state == "stalled" else "") if at_work else site.state


def describe_round(record: RoundDocument, total: int | None) -> str:
    """`round 3 of 20   accuracy 0.912  loss 0.231   3 sites, 455 samples, 0.21 s`."""
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in sorted(record.metrics.items()))
    samples = sum(line.samples for line in record.contributors)
    seconds = ""
    if record.started_at and record.finished_at:
        seconds = f", {(record.finished_at - record.started_at).total_seconds():.2f} s"
    missing = [*record.absent, *record.refused]
    without = f"  without {', '.join(f'{m.site} ({m.reason})' for m in missing)}" if missing else ""
    of = f" of {total}" if total else ""
    return clean(
        f"  round {record.round + 1}{of}   {metrics}   "
        f"{len(record.contributors)} sites, {samples} samples{seconds}{without}"
    )
