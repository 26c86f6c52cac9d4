# SPDX-License-Identifier: Apache-2.0
"""What the benchmark asks of a system, whichever it is: see `System` and `Network`.

The workload is one: a model of float32 tensors goes to every site, the site adds a constant to each number
and sends all of them back, the server averages. Each system runs it with its own FedAvg, its own way to
write a trainer, and its defaults, unless `settings` says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from systems.processes import Peak


class NotRun(Exception):
    """The system has no such thing, or this machine has no room for it: nothing was tried."""


class Failed(Exception):
    """It was tried, and did not come to its end."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of the workload."""

    rounds: int
    size: int = 0  # bytes of the model, in ten tensors; 0: one tensor of ten numbers
    torch: bool = False  # the trainer imports torch first
    eager: bool = False  # with the system's intervals of polling as short as they can usefully be set
    stubborn: bool = False  # the trainer ignores SIGTERM and sleeps for an hour, in round 1
    patience: float = 900.0  # seconds after which the row has failed


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What is known of a job that completed."""

    submitted: float  # time of day at which the submit command was started
    began: tuple[float, ...]  # for each round the moment at which the trainer of the first site began
    peaks: Mapping[str, Peak] = field(default_factory=dict)  # memory by role, if it was watched

    @property
    def first_task(self) -> float:
        """Seconds from the start of the command until job code ran at a site."""
        return self.began[0] - self.submitted

    @property
    def rounds(self) -> tuple[float, ...]:
        """Seconds of each round: from its first task to the next round's, so with all that lies between."""
        return tuple(later - earlier for earlier, later in zip(self.began, self.began[1:], strict=False))


class Network(Protocol):
    """A server and its sites, as real processes on this machine; all are ready."""

    ready_after: float  # seconds that `up` took

    def status(self) -> None:
        """Run the command that shows server and sites."""

    def run(self, job: Job, *, watch: bool = False) -> Ran:
        """Submit, wait for the end; with `watch`, memory is sampled until then."""

    def abort(self) -> float:
        """Seconds from the start of the abort command until the last process of a stubborn job is gone."""

    def down(self) -> None:
        """End every process, whatever state it is in. May be called twice."""


class System(Protocol):
    """One of the systems that are compared."""

    name: str  # in bench.json
    title: str  # in tables and plots
    settings: tuple[str, ...]  # what is not the default, what is, and why

    def version(self) -> str:
        """As it says itself; it is installed first if need be."""

    def help(self) -> None:
        """Run the command that lists its commands."""

    def provision(self, folder: Path, sites: int) -> None:
        """Make the identities and startup kits of a network, in `folder`, which is new."""

    def up(self, folder: Path, sites: int) -> Network:
        """Start a network from nothing; return when the server and every site are ready."""

    def simulate(self, folder: Path, *, sites: int, rounds: int, size: int) -> tuple[float, ...]:
        """Run the workload over virtual sites, without a network; when rounds began, if known."""


def read_marks(marks: Path) -> tuple[float, ...]:
    """For each round the earliest moment of the lines `ROUND MOMENT` that trainers wrote."""
    first: dict[int, float] = {}
    for line in marks.read_text().splitlines() if marks.exists() else ():
        number, moment = line.split()
        first[int(number)] = min(first.get(int(number), float("inf")), float(moment))
    return tuple(first[number] for number in sorted(first))


def wait_for_mark(marks: Path, sites: int, patience: float) -> None:
    """Until so many trainers have begun.

    Raises:
        Failed: they have not, in time.
    """
    deadline = time.monotonic() + patience
    while not marks.exists() or len(marks.read_text().splitlines()) < sites:
        if time.monotonic() > deadline:
            raise Failed(f"no task began within {patience:.0f} s")
        time.sleep(0.1)
