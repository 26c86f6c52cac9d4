# SPDX-License-Identifier: Apache-2.0
"""What `job plan` prints: who would run a job, who would not and why, and where in the queue it would be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class SiteOffer:
    """What a site says of its room when it is asked whether it would run a job."""

    cpus: int = 0
    memory: int = 0
    disk: int = 0
    gpus: tuple[str, ...] = ()  # UUIDs that the job would get now
    disk_needed: int = 0  # of the site's disk: what the job asks for, its app and two models
    python: str = ""
    filters: tuple[str, ...] = ()  # what its policy does to the job's models and updates, in sentences


@dataclass(frozen=True, kw_only=True)
class Objection:
    """One thing that stands against a job at a site."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class JobPlanSite:
    """One site of the plan."""

    site: str
    verdict: str  # runs | waits | refuses | silent | away
    reason: str = ""  # in one line; empty: it would run the job
    objections: tuple[Objection, ...] = ()  # everything that the site itself has against it
    room: SiteOffer | None = None  # None: the site was not asked, or did not answer


@dataclass(frozen=True, kw_only=True)
class DiskEstimate:
    """What the job would take of the server's disk."""

    needed: int
    free: int
    text: str  # how `needed` comes about


@dataclass(frozen=True, kw_only=True)
class JobPlanDocument:
    """`job plan --json`. Nothing was submitted, leased or kept."""

    name: str
    app: str  # digest
    starts: bool  # it would start now
    reason: str  # why not; empty: it would
    sites: tuple[JobPlanSite, ...]
    quorum: int
    required: tuple[str, ...] = ()
    priority: int = 0
    ahead: int = 0  # jobs that wait before it
    position: int = 0  # in the queue, from 1; 0: it would not wait
    cost: str = ""  # what the workflow takes beyond the model itself; empty: nothing worth a word
    disk: DiskEstimate | None = None  # None: the model is made by code, nobody knows its size before
    made_at: datetime | None = None
