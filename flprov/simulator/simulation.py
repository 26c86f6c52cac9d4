# SPDX-License-Identifier: Apache-2.0
"""Simulation: a job over sites that exist on this machine only, thousands of them if need be.

Not another engine: rounds, checks, filters, encryption and workflows are those of a network, and so are the
processes of job code, confined as always. What a network needs is left out: certificates, connections, a
store on disk. docs/simulation.md is the page that users read.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import queue
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flprov._base import Clock, SystemClock
from flprov.errors import Misuse, NotFound
from flprov.simulator.drawing import Drawing
from flprov.workers import Warming

if TYPE_CHECKING:
    from flprov.wire.documents import JobDocument

MOST_SITES = 10_000  # as a job may have
_NAME = "simulation"  # of the thread
# Imported before the first process is forked: in the template, once for all.
_OURS = ("flprov.workers.workflow_main", "flprov.sdk.workflows.fedavg", "flprov.workers.seats")
_TORCH = re.compile(r"^(import|from) torch\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What to simulate."""

    app: Path
    sites: int
    output: Path  # results go here
    settings: Mapping[str, str] = field(default_factory=dict)  # as for `job submit --set`
    datasets: Mapping[str, Path] = field(default_factory=dict)  # the same paths at every site
    site_datasets: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)  # site-1 -> its own, too
    min_sites: int | None = None
    workers: int | None = None  # processes for the sites; None: see `flprov.simulator.placing`


def simulate(
    wanted: Simulation, *, on_change: Callable[[JobDocument], None] | None = None, clock: Clock | None = None
) -> tuple[JobDocument, list[Path]]:
    """Run an app over `sites` simulated sites; returns the job once it has ended, and the result files.

    Raises:
        Misuse: too few or too many sites.
        NotFound: there are datasets for a site that there is not.
        ConfigError: job.yml has mistakes.
    """
    if not 1 <= wanted.sites <= MOST_SITES:
        raise Misuse(f"{wanted.sites} sites; the simulator runs 1 to {MOST_SITES}")
    if wanted.workers is not None and wanted.workers < 1:
        raise Misuse(f"{wanted.workers} workers; there is at least one")
    names = site_names(wanted.sites)
    for site in wanted.site_datasets:
        if site not in names:
            raise NotFound(f"no site {site} here (they are {names[0]} to {names[-1]})")
    with tempfile.TemporaryDirectory(prefix="flprov-simulation-") as folder:
        simulating = _Simulating(wanted, Path(folder), clock or SystemClock())
        return simulating.run(on_change or (lambda _job: None))


def site_names(sites: int) -> list[str]:
    """site-1, site-2, ..."""
    return [f"site-{number}" for number in range(1, sites + 1)]


class _Simulating:
    """A loop in a thread of its own, so that a notebook, which has one already, can simulate too."""

    def __init__(self, wanted: Simulation, folder: Path, clock: Clock) -> None:
        self._wanted = wanted
        self._folder = folder
        self._clock = clock
        self._said: queue.SimpleQueue[JobDocument | None] = queue.SimpleQueue()
        self._found: tuple[JobDocument, list[Path]] | None = None
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._begun = threading.Event()

    def run(self, on_change: Callable[[JobDocument], None]) -> tuple[JobDocument, list[Path]]:
        """Until the end; an exception of `on_change`, or Ctrl-C, ends every process first."""
        thread = threading.Thread(target=self._serve, name=_NAME, daemon=True)
        thread.start()
        try:
            while (document := self._said.get()) is not None:
                on_change(document)
        finally:
            self._stop()
            thread.join()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def _stop(self) -> None:
        self._begun.wait()
        assert self._loop is not None
        assert self._main is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._main.cancel)

    def _serve(self) -> None:
        try:
            asyncio.run(self._main_task())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # the thread's outermost loop: it is raised in the caller's
            self._error = error
        finally:
            self._begun.set()
            self._said.put(None)

    async def _main_task(self) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        self._begun.set()
        warming = Warming("site", [*_OURS, *_heavy(self._wanted.app)], awaited=True)
        warming.prepare(Path(sys.executable))
        with contextlib.closing(Drawing()) as drawing:
            try:
                # In a thread: the others begin while we import what we need ourselves.
                await asyncio.to_thread(importlib.import_module, "flprov.simulator.job")
                from flprov.simulator.job import simulate_job

                self._found = await simulate_job(
                    self._wanted,
                    self._folder,
                    clock=self._clock,
                    warming=warming,
                    drawing=drawing,
                    show=self._said.put,
                )
            finally:
                await warming.close()


def _heavy(app: Path) -> list[str]:
    """What the app's code imports at its top, as far as it is known to take long."""
    return ["torch"] if any(_imports_torch(path) for path in _modules(app)) else []


def _modules(app: Path) -> Iterator[Path]:
    """The app's own Python files; an environment that lies hidden beside them has tens of thousands."""
    for folder, below, names in os.walk(app):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _imports_torch(path: Path) -> bool:
    try:
        return path.is_file() and _TORCH.search(path.read_text(errors="replace")) is not None
    except OSError:  # whoever packs the app says so
        return False
