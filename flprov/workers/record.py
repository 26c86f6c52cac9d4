# SPDX-License-Identifier: Apache-2.0
"""What the shim leaves in the job's folder: shim.json while it runs, exit.json at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from flprov._base import from_document

T = TypeVar("T")

SHIM_RECORD = "shim.json"
EXIT_RECORD = "exit.json"
SHIM_SOCKET = "shim.sock"  # here the shim waits for a new parent


@dataclass(frozen=True, kw_only=True)
class ShimRecord:
    """Where a job's processes are to be found, also by a parent that did not start them."""

    job_id: str
    pid: int  # of the shim
    started: int  # ticks since boot (proc_pid_stat(5), field 22): tells it from a later process
    boot: str  # /proc/sys/kernel/random/boot_id
    tag: str  # in the environment of the worker and of what it starts


@dataclass(frozen=True, kw_only=True)
class ExitRecord:
    """How a job's processes ended."""

    reason: str  # a sentence: "exited with status 0", "killed by SIGSEGV", "the agent went away"
    code: int | None = None  # exit status; None when a signal ended the worker
    signal: int | None = None
    stopped: bool = False  # its end was asked for, by the parent or by the parent's absence
    oom: bool = False  # the kernel killed it for want of memory
    outside: bool = False  # neither the job nor its parent ended it, but a signal from elsewhere
    ended: int = 0  # processes of it that were alive when its end was asked for
    started_at: datetime | None = None
    ended_at: datetime | None = None
    max_rss: int = 0  # bytes, the largest of the worker's processes
    cpu_seconds: float = 0.0
    log_dropped: int = 0  # bytes of output above the limit
    remaining: tuple[int, ...] = ()  # processes that could not be killed; empty is proof that all are gone

    @property
    def clean(self) -> bool:
        """The worker ended by itself with status 0, and nothing of it is left."""
        return self.code == 0 and not self.stopped and not self.remaining


def read_shim_record(folder: Path) -> ShimRecord | None:
    """The record in this job's folder; None when there is none, or a power cut tore it."""
    return _read(ShimRecord, folder / SHIM_RECORD)


def read_exit_record(folder: Path) -> ExitRecord | None:
    """The record in this job's folder; None while the job runs, or when its shim was killed."""
    return _read(ExitRecord, folder / EXIT_RECORD)


def _read(kind: type[T], path: Path) -> T | None:
    try:
        return from_document(kind, json.loads(path.read_bytes()))
    except (OSError, ValueError):
        return None
