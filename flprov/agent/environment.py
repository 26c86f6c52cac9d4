# SPDX-License-Identifier: Apache-2.0
"""Whether this machine can run jobs, thing by thing, and since when it is so: the site's own word.

Each thing is looked at with every heartbeat, off the event loop. Since when is kept in memory: it begins
with the agent, and changes when a thing begins or ceases to be all right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from flprov.errors import FlprovError
from flprov.policy import load_site_settings
from flprov.wire.documents import Condition, Vitals

LEAST_DISK = 1 << 30  # bytes; with less, no app and no model is fetched
_NEEDED = ("numpy",)  # of the interpreter that jobs get: every update is made with it

Found = tuple[str, str, str]  # a name, what is wrong (empty: nothing), what was found


class Environment:
    """Remembers since when each thing is as it is."""

    def __init__(self) -> None:
        self._known: dict[str, Condition] = {}
        self._asked: dict[tuple[str, float], str] = {}  # interpreters that were asked for their packages

    def observe(self, vitals: Vitals, settings: Path, now: datetime) -> Vitals:
        """The vitals with the state of every thing. Blocks: it looks at disks, and may run an interpreter."""
        found = tuple(self._condition(line, now) for line in self._look(vitals, settings))
        self._known = {condition.name: condition for condition in found}
        return replace(vitals, at=now, environment=found)

    def _condition(self, line: Found, now: datetime) -> Condition:
        name, problem, detail = line
        known = self._known.get(name)
        same = known is not None and known.ok is (not problem)
        since = known.since if known is not None and same else now
        return Condition(name=name, ok=not problem, since=since, reason=problem or detail)

    def _look(self, vitals: Vitals, settings: Path) -> Iterator[Found]:
        low = vitals.disk.available < LEAST_DISK
        free = f"{vitals.disk.available >> 20} MiB of disk left"
        yield "disk", f"{free}; a job needs at least {LEAST_DISK >> 20}" if low else "", free
        bare = vitals.confinement == "none"
        why = "job code cannot be confined there (neither Landlock nor bubblewrap)"
        yield "confinement", why if bare else "", vitals.confinement
        yield "policy", vitals.notes[0] if vitals.notes else "", "policy.yml and site.yml are in order"
        yield _datasets(settings)
        yield from self._interpreter(Path(vitals.python))
        yield _driver(vitals)

    def _interpreter(self, python: Path) -> Iterator[Found]:
        missing = _no_interpreter(python)
        yield "interpreter", missing, str(python)
        if not missing:
            lacking = self._packages(python)
            yield "packages", lacking, f"{', '.join(_NEEDED)} found"

    def _packages(self, python: Path) -> str:
        """What an interpreter lacks; asked again when it has changed on disk."""
        if str(python) == sys.executable:
            return ""  # this very program runs in it
        from flprov.jobs import check_needs  # late: with the package packaging

        key = (str(python), python.stat().st_mtime)
        if key not in self._asked:
            try:
                self._asked = {key: "; ".join(check_needs(_NEEDED, python))}
            except FlprovError as error:
                return str(error)  # and is asked again
        return self._asked[key]


def _datasets(settings: Path) -> Found:
    try:
        datasets = load_site_settings(settings).datasets
    except FlprovError:
        return "datasets", "", "site.yml cannot be read"  # which `policy` says in full
    gone = [f"{name}: {path}" for name, path in sorted(datasets.items()) if not os.access(path, os.R_OK)]
    if gone:
        return "datasets", f"{settings} names data that is not there or cannot be read: {', '.join(gone)}", ""
    return "datasets", "", ", ".join(sorted(datasets)) or "none named in site.yml"


def _no_interpreter(python: Path) -> str:
    if not python.is_file():
        return f"the interpreter for jobs is not there: {python}"
    return "" if os.access(python, os.X_OK) else f"the interpreter for jobs cannot be run: {python}"


def _driver(vitals: Vitals) -> Found:
    """A machine without GPUs is in order; one whose driver has trouble is not."""
    if vitals.gpus:
        return "gpu driver", "", f"{vitals.gpus[0].driver}, {len(vitals.gpus)} GPUs"
    trouble = vitals.gpu_note if vitals.gpu_note.startswith("NVML:") else ""
    return "gpu driver", trouble, vitals.gpu_note or "no GPU on this machine"
