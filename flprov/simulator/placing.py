# SPDX-License-Identifier: Apache-2.0
"""Placing: which simulated site lives in which process.

Few sites have a process each, as on a network. Many share as many processes as the machine has processors.
A site that runs a script keeps its process from its first task to its last, so each has its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from flprov.errors import Misuse
from flprov.jobs import JobSpec
from flprov.sdk import is_entry

FEW = 8  # sites that have a process each, also where there are fewer processors
MOST_SCRIPTS = 256  # sites that run a script: a process and its shim each
_EACH = 40 << 20  # bytes that a process of a script takes at least, with its shim


def python() -> Path:
    """The interpreter that runs the job's code."""
    return Path(sys.executable)


def runs_script(spec: JobSpec) -> bool:
    """Whether a task of the job is a script, and not a function or a class."""
    return any(not is_entry(text) for text in spec.tasks.values())


def place(spec: JobSpec, sites: Sequence[str], workers: int | None) -> list[list[str]]:
    """The sites of each process.

    Raises:
        Misuse: there are more sites with a script of their own than there can be processes.
    """
    if runs_script(spec):
        _verify_room(len(sites), workers)
        return [[site] for site in sites]
    processors = len(os.sched_getaffinity(0))
    few = max(FEW, processors)
    count = workers or (len(sites) if len(sites) <= few else processors)
    return [list(sites[number::count]) for number in range(min(count, len(sites)))]


def _verify_room(sites: int, workers: int | None) -> None:
    hint = "give the tasks as functions or classes (module:name): thousands of sites can share processes then"
    if workers is not None and workers < sites:
        raise Misuse(
            f"{sites} sites run a script, and {workers} workers have no room for them: a script keeps what"
            " it knows in its process",
            hint=hint,
        )
    if sites > MOST_SCRIPTS:
        raise Misuse(
            f"{sites} sites run a script, each in a process that it keeps: at most {MOST_SCRIPTS} are"
            " simulated so",
            hint=hint,
        )
    free = _free_memory()
    if sites * _EACH > free:
        raise Misuse(
            f"{sites} sites run a script, each in a process that it keeps: that takes"
            f" {sites * _EACH >> 20:,} MB at the very least, and {free >> 20:,} MB are free",
            hint=hint,
        )


def _free_memory() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["MemAvailable"].split()[0]) << 10
