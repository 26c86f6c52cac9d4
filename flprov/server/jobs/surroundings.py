# SPDX-License-Identifier: Apache-2.0
"""What a job's run works with: the server around it, and the parts that its collaborators share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import Clock, Tasks
from flprov.blobs import BlobStore
from flprov.server.jobs import events as ev
from flprov.server.jobs.checkpoints import Retention
from flprov.server.jobs.ledger import JobLedger
from flprov.server.jobs.rounds import Rounds
from flprov.server.jobs.sites import JobSites
from flprov.server.jobs.workflow import Workflow
from flprov.server.records import JobRecord, RoundRecord
from flprov.server.sessions import Sessions
from flprov.store import Store
from flprov.wire import pb
from flprov.workers import Launcher

SMALL_APP = 16 << 10  # bytes; travels with the order, and a thousand orders wait here at once


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every job's run works with."""

    clock: Clock
    store: Store
    blobs: BlobStore
    sessions: Sessions
    launcher: Launcher
    folder: Path  # of all jobs
    python: Path
    unconfined: bool
    log_grew: Callable[[str], None]  # told the job's id when the workflow has printed something
    on_change: Callable[[str], None]  # told the job's id after each change that shows
    on_progress: Callable[[str], None]  # told the job's id when a site has moved, by its own word
    collect: Callable[[set[str]], object]  # blobs that this job needs no more
    rounds: Callable[[str], Sequence[RoundRecord]]  # those of a job that are over
    kept: Callable[[str], Sequence[RoundRecord]]  # of these, the ones of which the saved state is kept
    keep_round: Callable[[RoundRecord], None]  # it is on disk, new or changed
    checkpoints: Retention
    model_size: Callable[[JobRecord], int] = lambda _: 0  # of a model that is a file of the app
    told: Callable[[str, pb.Progress], None] = lambda _job_id, _said: None  # numbers of a job's workflow


@dataclass(kw_only=True)
class Parts:
    """One job's parts, for those that decide what an event means for it."""

    around: Surroundings
    ledger: JobLedger
    workflow: Workflow
    sites: JobSites
    rounds: Rounds
    tell: Callable[[ev.Event], None]
    tasks: Tasks
    workflow_ready: bool = False
    doing: str = ""  # what the workflow says that it does; telemetry
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def record(self) -> JobRecord:
        """The job as it is written down."""
        return self.ledger.record

    @property
    def active(self) -> bool:
        """Whether sites are to run it."""
        return self.record.active

    def launch(self) -> None:
        """Start the workflow's process."""
        record = self.record
        self.workflow_ready = False
        self.tasks.spawn(self.workflow.run(record.app, record.spec, self.around.python))

    def deploy(self, *sites: str) -> None:
        """Have these sites get ready."""
        blobs, model = self.around.blobs, self.around.model_size(self.record)
        size = blobs.size(self.record.app)
        app = blobs.path(self.record.app).read_bytes() if size <= SMALL_APP else b""
        order = self.sites.deployment(size, model, app)
        for site in sites:
            self.sites.deploy(site, order)

    def arm(self, moment: datetime | None) -> None:
        """Look at the job again then."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if moment is not None:
            delay = max(0.0, (moment - self.around.clock.now()).total_seconds())
            self._timer = asyncio.get_running_loop().call_later(delay, self.tell, ev.LookAgain())

    def blobs(self) -> set[str]:
        """What the job's open round and its saved state take of the blob store."""
        model = self.record.model
        return self.rounds.blobs() | (model.digests if model else set())
