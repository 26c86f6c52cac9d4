# SPDX-License-Identifier: Apache-2.0
"""What drain, stop, backup, restore and gc print."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class DrainDocument:
    """`site drain|enable --json`, `server drain|enable --json`: one party, and whether it can be stopped."""

    name: str
    kind: str  # site | server
    changed: bool  # false: it was so before
    drained: str  # by whom, since when and why; empty: it takes jobs
    safe_to_stop: bool
    safe_when: str  # in words
    jobs: tuple[str, ...] = ()  # ids of those that are waited for
    notes: tuple[str, ...] = ()  # what else is to be known or done


@dataclass(frozen=True, kw_only=True)
class SiteOrderDocument:
    """`site stop|restart --json`: how far an order has come; the last one that is printed is its end."""

    name: str
    order: str  # stop | restart
    state: str  # waiting | told | gone | back | taken_back
    text: str  # in words
    jobs: tuple[str, ...] = ()  # ids of those that are waited for


@dataclass(frozen=True, kw_only=True)
class BackupDocument:
    """`server backup --json`."""

    file: str
    bytes: int
    project: str
    server: str
    log_index: int  # of the last row that is in it
    made_at: datetime
    jobs: int
    blobs: int
    running: bool  # the server was running meanwhile
    keys: tuple[str, ...] = ()  # private keys that are in it, by their place in the state
    missing: tuple[str, ...] = ()  # blobs that the state names and does not have
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RestoreDocument:
    """`server restore --json`."""

    state: str  # the folder that was put in place
    moved_aside: str  # the folder with what was there before; empty: nothing was
    log_index: int  # of the backup's last row
    made_at: datetime  # when the backup was made
    bytes: int
    check: tuple[str, ...] = ()  # what a person has to look at before `server enable`
    forgotten: tuple[str, ...] = ()  # what the state that was moved aside says happened since, in words
    denials: int = 0  # records of who is kept out that were taken over from that state
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CleanedJob:
    """A job that was, or would be, deleted."""

    id: str
    name: str
    state: str
    finished_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class CleanDocument:
    """`server gc --json`: what was thrown away, or would be."""

    dry_run: bool
    jobs: tuple[CleanedJob, ...]
    checkpoints: int
    blobs: int
    uploads: int
    bytes: int  # of blobs and uploads
    notes: tuple[str, ...] = ()
