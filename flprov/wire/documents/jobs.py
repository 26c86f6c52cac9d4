# SPDX-License-Identifier: Apache-2.0
"""What `job` and `app` print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from flprov._base import dataclass


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
    checkpoint: bool = False  # the state after it is kept: `job clone --from-round` can start there
    spared: tuple[str, ...] = ()  # sites whose answer to a task the workflow did not wait for


@dataclass(frozen=True, kw_only=True)
class JobSiteDocument:
    """A job at one of its sites."""

    site: str
    # waiting | deploying | ready | training | stalled | refused | absent | stopping | stopped | unconfirmed
    state: str
    reason: str = ""
    since: datetime | None = None
    progress: str = ""  # "round 3, step 120, at 12:00:00 UTC"
    step: int = 0  # of the open task, by the site's own word
    doing: str = ""  # fetching app, fetching model, sending update; empty: the task itself
    bytes_done: int = 0  # of what is fetched or sent
    bytes_total: int = 0
    at: datetime | None = None  # when that was heard
    freed: tuple[str, ...] = ()  # what the job held there and holds no more, as the site has proven
    late: int = 0  # updates that came too late
    answered: bool = False  # the open task of the running round; its update is on the server's disk


@dataclass(frozen=True, kw_only=True)
class JobOrigin:
    """Of which job this one is a clone."""

    job_id: str
    round: int = 0  # how many of its rounds were taken as done; 0: the clone began from the start


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one site gave to a job."""

    site: str
    rounds: int  # to which it contributed
    samples: int  # in all of them
    missed: tuple[int, ...] = ()  # rounds that it was asked for and is not part of; from 0
    reasons: tuple[str, ...] = ()  # why, each once


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
    unconfirmed: tuple[str, ...] = ()  # sites that have not confirmed yet that nothing of it runs
    results: tuple[str, ...] = ()  # files that `job download` brings
    origin: JobOrigin | None = None
    contributions: tuple[Contribution, ...] = ()
    doing: str = ""  # what the workflow says that it does


@dataclass(frozen=True, kw_only=True)
class JobListDocument:
    """`job ls --json`."""

    jobs: tuple[JobDocument, ...]
    more: bool = False  # there are older ones: ask again with the last one's id


@dataclass(frozen=True, kw_only=True)
class JobDeletedDocument:
    """`job delete --json`."""

    job_id: str
    rounds: int = 0  # records that went with it
    repeated: bool = False  # the command had been carried out before


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
    cost: str = ""  # as in a plan


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
    hint: str = ""  # the next thing to type or to change
    nature: str = ""  # transient | configuration | identity: what has to happen before it can work


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was last seen of a party, and when: no opinion, so that a person can form one."""

    party: str  # "server", a site's name, "workflow"
    what: str  # heartbeat, progress, state, link, clock, round
    at: datetime | None  # by the server's clock
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class WhyDocument:
    """`job why --json`: the earliest cause first, and the next thing to type."""

    job_id: str
    state: str
    answer: str  # one sentence
    causes: tuple[Cause, ...] = ()  # in the order in which the server heard of them: what follows the first
    hint: str = ""
    seen: tuple[Seen, ...] = ()  # of every party that the job waits for or has lost
