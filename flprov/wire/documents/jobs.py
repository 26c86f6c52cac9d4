# SPDX-License-Identifier: Apache-2.0
"""What `job` and `app` print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Contributor:
    """One site's part in a round."""

    site: str
    samples: int
    weight: float
    bytes: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A site that did not contribute to a round, and why."""

    site: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RoundDocument:
    """One round of `job show --json`."""

    round: int
    started_at: datetime | None
    finished_at: datetime | None
    contributors: tuple[Contributor, ...] = ()
    absent: tuple[Missing, ...] = ()
    refused: tuple[Missing, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobSiteDocument:
    """A job at one of its sites."""

    site: str
    state: str  # waiting | deploying | ready | training | refused | absent | stopping | stopped
    reason: str = ""
    since: datetime | None = None
    progress: str = ""  # "round 3, step 120, 4 s ago"


@dataclass(frozen=True, kw_only=True)
class JobDocument:
    """`job show --json`; `job ls --json` has the same without `rounds`."""

    id: str
    name: str
    app: str
    state: str
    reason: str
    submitted_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    submitted_by: str
    sites: tuple[JobSiteDocument, ...]
    rounds: tuple[RoundDocument, ...] = ()
    rounds_done: int = 0
    rounds_total: int | None = None
    token: str = ""
    unconfirmed: tuple[str, ...] = ()  # sites that could not confirm an abort yet
    results: tuple[str, ...] = ()  # files that `job download` brings


@dataclass(frozen=True, kw_only=True)
class JobListDocument:
    """`job ls --json`."""

    jobs: tuple[JobDocument, ...]


@dataclass(frozen=True, kw_only=True)
class AppDocument:
    """`app show --json`, and one item of `app ls --json`."""

    digest: str
    name: str
    size: int
    uploaded_at: datetime
    uploaded_by: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AppBuildDocument:
    """`app build --json`."""

    digest: str  # BLAKE3-256 of the bundle, hex: what sites and signatures name
    name: str
    size: int  # of the bundle
    files: tuple[str, ...]
    bundle: str | None = None  # where it was written; None without -o


@dataclass(frozen=True, kw_only=True)
class AppListDocument:
    """`app ls --json`."""

    apps: tuple[AppDocument, ...]


@dataclass(frozen=True, kw_only=True)
class SubmitDocument:
    """`job submit --json`."""

    job_id: str
    app: str
    state: str
    repeated: bool = False  # the token had made this job before


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """One file that `job download` brings."""

    name: str
    size: int
    digest: str = ""  # BLAKE3-256, hex; empty for a log that may still grow


@dataclass(frozen=True, kw_only=True)
class ResultsDocument:
    """What there is to download of a job."""

    job_id: str
    files: tuple[ResultFile, ...]


@dataclass(frozen=True, kw_only=True)
class DownloadDocument:
    """`job download --json`."""

    job_id: str
    folder: str
    files: tuple[str, ...]  # paths
    no_plot: str = ""  # why there is no metrics.png; empty when there is one


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One thing that went wrong, or that is waited for."""

    at: datetime | None
    party: str  # "server", a site's name, "workflow"
    code: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, kw_only=True)
class WhyDocument:
    """`job why --json`: the earliest cause first, and the next thing to type."""

    job_id: str
    state: str
    answer: str  # one sentence
    causes: tuple[Cause, ...] = ()
    hint: str = ""
