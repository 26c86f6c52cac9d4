# SPDX-License-Identifier: Apache-2.0
"""What every job at this site works with, and how far one of them is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import Clock
from flprov.agent.answers import Answers
from flprov.agent.bulk import Bulk
from flprov.agent.jobrecord import OpenTasks
from flprov.agent.leases import Leases
from flprov.agent.promises import Promises
from flprov.blobs import BlobStore
from flprov.wire import pb
from flprov.workers import Launcher


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every job at this site works with."""

    site: str
    clock: Clock
    blobs: BlobStore
    bulk: Bulk
    launcher: Launcher
    leases: Leases
    private: tuple[Path, ...]  # what no job may ever see
    answers: Answers
    tasks: OpenTasks
    promises: Promises
    orphan_seconds: float  # so long a job's process waits for an agent that was killed
    collect: Callable[[set[str]], None]  # blobs that this job needs no more
    report: Callable[[pb.FromSite], None]  # to the server if connected; else dropped, and said again later


@dataclass(kw_only=True)
class SiteWork:
    """How far a job is here: its state, the task that is open, and what that task needs."""

    job_id: str
    tools: Tools
    state: str = "deploying"  # deploying, ready, training, stopping
    since: datetime | None = None  # when `state` became what it is
    order: pb.TaskOrder | None = None  # the open task
    tries: int = 1  # how many processes were given it, one after the other
    handed: str = ""  # the task that the process was given over its present channel
    superseded: set[str] = field(default_factory=set)  # tasks that the server has gone on from
    models: set[str] = field(default_factory=set)  # blobs that the open task needs: model, and beside it
    base: str = ""  # the model of the newest task that has come here whole
    confinement: str = ""  # of its process, as `Process.confinement` has it
    taking: set[str] = field(default_factory=set)  # the blob of an update that is not kept yet
    over: bool = False  # it was told to end here, or its agent ends

    def be(self, state: str) -> None:
        """The job is somewhere else now."""
        self.state, self.since = state, self.tools.clock.now()
