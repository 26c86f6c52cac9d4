# SPDX-License-Identifier: Apache-2.0
"""What `flprov poc up|status|down` tell, as frozen values: for people's tools, with `--json`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PartyState:
    """The server or a site, as it is now."""

    name: str
    kind: str  # server | site
    state: str  # serving (the server) | connected (a site) | connecting | starting | stopped
    pid: int | None
    kit: str
    log: str
    reason: str = ""  # why a site is not connected
    metrics: str = ""  # where Prometheus finds it, "off", or why there is nothing


@dataclass(frozen=True, kw_only=True)
class NetworkState:
    """`poc status --json`."""

    folder: str
    state: str  # running: every process is, and every site is connected | partial | stopped
    project: str
    endpoint: str
    admin_kit: str
    parties: tuple[PartyState, ...]


@dataclass(frozen=True, kw_only=True)
class UpReport:
    """`poc up --json`."""

    folder: str
    project: str
    endpoint: str
    admin_kit: str
    started: tuple[str, ...]  # what this command started; empty: everything ran already
    ready_after: float  # seconds, from the beginning of the command's own work
    created: bool  # it is a new network, not one that was stopped
    written: tuple[str, ...]  # policy.yml and site.yml files that were written
    parties: tuple[PartyState, ...]


@dataclass(frozen=True, kw_only=True)
class DownReport:
    """`poc down --json`. It is made only when no process is left."""

    folder: str
    stopped: tuple[str, ...]  # what ran
    killed: tuple[str, ...]  # of these, what did not end when asked
    job_processes: tuple[int, ...]  # processes of jobs that were still there and were ended
    seconds: float
    deleted: bool  # the data too
