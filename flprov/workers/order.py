# SPDX-License-Identifier: Apache-2.0
"""LaunchOrder: what a parent asks a launcher for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAINS = {
    "seats": "flprov.workers.seats",  # many simulated sites
    "site": "flprov.workers.site_main",
    "workflow": "flprov.workers.workflow_main",
}


@dataclass(frozen=True, kw_only=True)
class LaunchOrder:
    """One worker to start.

    In `folder`, `app/` and `in/` are for the worker to read, `out/` and `work/` to write (the three
    last are made when missing; `work/` is its home, TMPDIR and current folder). `log` and its segments,
    `shim.json`, `shim.sock` and `exit.json` beside them are the shim's, out of the worker's reach.
    """

    job_id: str
    folder: Path
    main: str = "site"  # `site`, `workflow`, or a module of this package with a main() -> int | None
    python: Path = Path(sys.executable)  # the interpreter that runs the job's code
    readable: tuple[Path, ...] = ()  # the datasets that the site has named for this job
    private: tuple[Path, ...] = ()  # what no rule may open, by mistake or not: kit, state
    gpus: tuple[str, ...] = ()  # UUIDs; the job gets these and sees no others
    unconfined: bool = False  # the site waives confinement where this machine cannot do it
    variables: Mapping[str, str] = field(default_factory=dict)  # e.g. OMP_NUM_THREADS
    grace: float = 5.0  # seconds between SIGTERM and SIGKILL when the parent goes away
    orphan_seconds: float = 0.0  # so long it runs on without a parent, which `Launcher.adopt` gives it again
    log_limit: int = 64 << 20  # bytes of output kept, the newest; older ones are dropped and counted

    @property
    def module(self) -> str:
        """The module whose main() the worker runs."""
        return MAINS.get(self.main, self.main)
