# SPDX-License-Identifier: Apache-2.0
"""A recorded history: what was done, acknowledged, claimed and left, in one JSON file.

Whoever records it (rig.py) judges nothing, and whoever judges it (checker.py) touches nothing else. So
a history that was kept can be judged again, and one can be forged to see whether it is found out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flprov._base import from_document, to_document


@dataclass(frozen=True, kw_only=True)
class Action:
    """What the campaign did to the network, in seconds since the epoch."""

    at: float
    what: str  # start, ready, kill, stop, cut, heal: a whole party; strike: one process of a job
    party: str  # server or a site's name
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """Something that the server said yes to, as the person's client heard it."""

    at: float
    what: str  # submit, abort, lock, drain, upload, result
    object: str  # job id, site's name, digest
    token: str = ""
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A process of a job, by the kernel's own view."""

    pid: int
    started: int  # ticks since boot
    party: str
    job: str
    kind: str  # shim, worker, workflow, other


@dataclass(frozen=True, kw_only=True)
class JobClaim:
    """What one answer said of one job."""

    state: str
    rounds: int = 0
    unconfirmed: tuple[str, ...] = ()
    sites: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at what the server claims, and at the processes right after its answer."""

    asked: float
    answered: float
    sites: Mapping[str, str] = field(default_factory=dict)  # name -> connected, disconnected, ...
    jobs: Mapping[str, JobClaim] = field(default_factory=dict)
    processes: tuple[Seen, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Left:
    """What there still is of jobs that have ended, looked at some time afterwards."""

    at: float
    ended: Mapping[str, float]  # job id -> when its end was seen
    processes: tuple[Seen, ...] = ()
    files: tuple[str, ...] = ()  # temporary and half-written files, sockets, short names
    leases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # site -> job ids that hold something


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """A row of a party's log; `whole`: its digest is that of its content."""

    index: int
    at: float
    who: str
    what: str
    object: str
    outcome: str
    reason: str
    previous: str
    digest: str
    whole: bool


@dataclass(frozen=True, kw_only=True)
class Books:
    """What one party has on its disk after the run."""

    rows: tuple[LogLine, ...]
    records: Mapping[str, Mapping[str, Any]]  # kind -> id -> record


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """How a job has to end: the rule, which is printed with the case."""

    states: tuple[str, ...] = ("completed",)
    rounds: int | None = None  # that are committed at the end; None: however many
    model: str = ""  # digest of the undisturbed run's result; empty: not compared
    contributors: tuple[str, ...] = ()  # in every round, when completed
    quorum: int = 0


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that the checker may know."""

    name: str
    actions: tuple[Action, ...] = ()
    acknowledged: tuple[Acknowledged, ...] = ()
    samples: tuple[Sample, ...] = ()
    left: tuple[Left, ...] = ()
    server: Books = field(default_factory=lambda: Books(rows=(), records={}))
    sites: Mapping[str, Books] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)  # job id -> digest of its result
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    died: tuple[str, ...] = ()  # parties that ended though nobody killed them: "site-1: exit 1: ..."
    detection: float = 25.0  # seconds after which a cut connection must be noticed
    death: float = 3.0  # seconds after which a killed agent must be noticed


def write_history(history: History, path: Path) -> None:
    """Keep it."""
    path.write_text(json.dumps(to_document(history), indent=1) + "\n")


def read_history(path: Path) -> History:
    """One that was kept."""
    return from_document(History, json.loads(path.read_text()))
