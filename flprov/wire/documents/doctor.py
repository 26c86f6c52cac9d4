# SPDX-License-Identifier: Apache-2.0
"""What `doctor` prints."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class DoctorRow:
    """One thing that `doctor` looked at."""

    name: str  # kit, certificate, clock, name, tcp, proxy, tls, server, disk, gpu, dataset, ...
    subject: str  # which of several: an endpoint, a dataset; empty where there is one
    verdict: str  # ok | warning | problem | skipped
    found: str
    next: str = ""  # what to do about it


@dataclass(frozen=True, kw_only=True)
class DoctorDocument:
    """`doctor --json`."""

    verdict: str  # the worst of the rows: ok | warning | problem; the exit code is 0, 7 or 1
    kit: str  # its folder; empty: the machine alone
    kind: str  # server, site or person; empty: no kit, or one that does not say
    name: str  # the kit's
    version: str  # of flprov
    checked_at: datetime
    seconds: float
    rows: tuple[DoctorRow, ...]
