# SPDX-License-Identifier: Apache-2.0
"""How the rows are measured: a phase takes one system, and tells the book.

A row that fails is noted and the phase goes on; a network on which one failed is made anew.
"""

from __future__ import annotations

import fnmatch
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from book import Book
from rows import (
    MB,
    MEMORY,
    NETWORKS,
    PROVISIONED,
    ROUNDS,
    SIMULATED,
    SIMULATIONS,
    SIZES,
    RoundRow,
    SimulationRow,
)
from systems.processes import ALL, Peak
from systems.system import Failed, Job, Network, NotRun, System

PROBLEMS = (Failed, subprocess.SubprocessError, OSError, ValueError, KeyError)
ROOM = 0.7  # of the machine's memory, that a row may be expected to take
COMMANDS = 3  # times that a quick command is run
LONG = 10.0  # seconds after which a command is run once


@dataclass(frozen=True, kw_only=True)
class Run:
    """What this run of the benchmark measures, and where."""

    book: Book
    folder: Path  # on the disk that is measured
    patterns: tuple[str, ...] = ("*",)
    leaves: tuple[str, ...] = ()  # rows that are left out all the same
    starts: int = 1  # times that a first task is measured in each turn
    probed: set[str] = field(default_factory=set)  # probes that this run has made before

    def wants(self, key: str) -> bool:
        """Whether the row was asked for; a row of memory comes with its round."""
        return key not in self.leaves and any(fnmatch.fnmatchcase(key, one) for one in self.patterns)

    @contextmanager
    def place(self) -> Iterator[Path]:
        """A new folder, gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder, ignore_cleanup_errors=True) as name:
            yield Path(name)


def commands(run: Run, system: System) -> None:
    """`--help` and provisioning."""
    if run.wants("help"):
        _note(run, system, "help", lambda: _times(COMMANDS, system.help))
    for sites in PROVISIONED:
        key = f"provision/{sites}"
        if run.wants(key):
            _note(run, system, key, partial(_provision, run, system, sites))


def _provision(run: Run, system: System, sites: int) -> list[float]:
    with run.place() as folder:
        first = timed(lambda: system.provision(folder, sites))
    if first > LONG:
        return [first]
    with run.place() as folder:
        return [first, timed(lambda: system.provision(folder, sites))]


def network(run: Run, sites: int, system: System) -> None:
    """All rows of a network with so many sites."""
    keys = [
        f"start/{sites}",
        *(["status", "first/numpy", "first/torch", "abort"] if sites == NETWORKS[0] else []),
    ]
    rounds = [row for row in ROUNDS if row.sites == sites and run.wants(row.key)]
    wanted = [key for key in keys if run.wants(key)]
    if not wanted and not rounds:
        return
    with run.place() as folder:
        trial = Rebuilt(run, system, folder, sites)
        try:
            trial.fresh()
            if "status" in wanted:
                trial.note("status", lambda net: _times(COMMANDS, net.status))
            for key in ("first/numpy", "first/torch"):
                if key in wanted:
                    trial.note(key, partial(_first_tasks, times=run.starts, torch=key == "first/torch"))
            for row in rounds:
                trial.rounds(row)
            if "abort" in wanted:
                trial.note("abort", lambda net: [net.abort()])
        finally:
            trial.down()


class Rebuilt:
    """A network that is started anew when a row has failed on it."""

    def __init__(self, run: Run, system: System, folder: Path, sites: int) -> None:
        self._run = run
        self._system = system
        self._folder = folder
        self._sites = sites
        self._count = 0
        self._network: Network | None = None
        self._broken = ""  # why there can be none

    def fresh(self) -> None:
        """Start one, and run what comes first on it, which is measured nowhere."""
        self.down()
        self._count += 1
        key = f"start/{self._sites}"
        try:
            self._network = self._system.up(self._folder / str(self._count), self._sites)
            if self._run.wants(key):
                self._run.book.add(key, self._system.name, [self._network.ready_after])
            self._network.run(Job(rounds=1))
        except NotRun as reason:
            self._broken = str(reason)
            self._run.book.leave_out(key, self._system.name, str(reason))
        except PROBLEMS as problem:
            self._broken = f"no network: {short(problem)}"
            self._run.book.fail(key, self._system.name, short(problem))

    def note(self, key: str, once: Callable[[Network], Sequence[float]]) -> None:
        """Measure one row."""
        if self._network is None and not self._broken:
            self.fresh()
        network = self._network
        if self._broken or network is None:
            self._run.book.fail(key, self._system.name, self._broken)
        elif not _note(self._run, self._system, key, lambda: once(network)):
            self.down()

    def rounds(self, row: RoundRow) -> None:
        """A row of rounds, and of memory if it is watched."""
        book, name = self._run.book, self._system.name
        reason = row.left_out.get(name) or no_room(book, name, row)
        if reason:
            book.leave_out(row.key, name, reason)
            return

        def once(network: Network) -> Sequence[float]:
            job = Job(rounds=row.rounds[name], size=SIZES[row.size], eager=row.eager)
            ran = network.run(job, watch=row.watch)
            _note_memory(book, name, row, ran.peaks)
            return ran.rounds

        self.note(row.key, once)
        cell = book.cells[row.key].get(name)
        if row.key == "round/empty/2" and cell and len(cell.values) >= 100:
            book.add("round/p99", name, [statistics.quantiles(cell.values, n=100)[98]])

    def down(self) -> None:
        """End it."""
        if self._network is not None:
            self._network.down()
            self._network = None


def _note_memory(book: Book, name: str, row: RoundRow, peaks: Mapping[str, Peak]) -> None:
    for role in MEMORY:
        if role in peaks:
            key = f"memory/{row.size}/{row.sites}/{role.replace(', ', '-')}"
            book.add(key, name, [peaks[role].anon], rss=peaks[role].rss)
    if peaks:
        found = {role: asdict(peak) for role, peak in peaks.items()}
        book.extra.setdefault("memory", {}).setdefault(row.key, {})[name] = found
        book.save()


def no_room(book: Book, name: str, row: RoundRow) -> str:
    """Why a row with many sites and a large model cannot be run: what fewer sites took says."""
    smaller = [r for r in ROUNDS if r.watch and r.size == row.size and 2 < r.sites < row.sites]
    for less in smaller:
        seen = book.extra.get("memory", {}).get(less.key, {}).get(name, {}).get(ALL)
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / MB
        if seen and (expected := seen["rss"] * row.sites / less.sites) > ROOM * total:
            return (
                f"{less.sites} sites took {seen['rss'] / 1000:.1f} GB, so this would take "
                f"{expected / 1000:.0f} of {total / 1000:.0f} GB"
            )
    return ""


def simulation(run: Run, system: System) -> None:
    """Virtual sites."""
    for row in SIMULATIONS:
        if run.wants(row.key):
            _note(run, system, row.key, partial(_simulate, run, system, row))


def _simulate(run: Run, system: System, row: SimulationRow) -> list[float]:
    rounds = row.rounds[system.name]
    if not rounds:
        few = SIMULATIONS[0]
        seen = run.book.median(few.key, system.name)
        said = f"; {few.sites} sites took {seen:.0f} s without a model" if seen else ""
        raise NotRun(f"{row.sites:,} sites are out of its reach here{said}")
    with run.place() as folder:
        began = time.monotonic()
        moments = system.simulate(folder, sites=row.sites, rounds=rounds, size=row.size)
        took = time.monotonic() - began
    missing = SIMULATED - rounds
    return [took + missing * (moments[1] - moments[0]) if missing else took]


def _first_tasks(network: Network, *, times: int, torch: bool) -> list[float]:
    return [network.run(Job(rounds=1, torch=torch)).first_task for _ in range(times)]


def _note(run: Run, system: System, key: str, once: Callable[[], Sequence[float]]) -> bool:
    """Measure one row into the book; False when it failed."""
    try:
        run.book.add(key, system.name, once())
    except NotRun as reason:
        run.book.leave_out(key, system.name, str(reason))
    except PROBLEMS as problem:
        run.book.fail(key, system.name, short(problem))
        return False
    return True


def _times(count: int, once: Callable[[], None]) -> list[float]:
    return [timed(once) for _ in range(count)]


def timed(once: Callable[[], None]) -> float:
    """Its wall time."""
    began = time.monotonic()
    once()
    return time.monotonic() - began


def short(problem: BaseException) -> str:
    """A line for the table."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return lines[-1][:200]
