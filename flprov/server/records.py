# SPDX-License-Identifier: Apache-2.0
"""What the server keeps on disk: one frozen record per job, round, update, app, site and token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from flprov.jobs import JobSpec, JobState, Origin
from flprov.wire.documents import Cause, Contributor, Missing


@dataclass(frozen=True, kw_only=True)
class BlobRef:
    """Tensors as they are kept: by value when small (hex), else by the digest of a blob."""

    inline: str = ""
    digest: str = ""
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class StateRef(BlobRef):
    """A workflow's saved state, as it is kept.

    A large model, and the best one, are blobs of their own, so that tasks and results can name the same
    ones; smaller ones are inside, as are all in records of earlier versions.
    """

    model: BlobRef | None = None
    best: BlobRef | None = None

    @property
    def digests(self) -> set[str]:
        """Of all the blobs that it is made of."""
        return {ref.digest for ref in self.refs if ref.digest}

    @property
    def refs(self) -> tuple[BlobRef, ...]:
        """What it is made of."""
        return tuple(ref for ref in (self, self.model, self.best) if ref is not None)


@dataclass(frozen=True, kw_only=True)
class AppRecord:
    """An uploaded app; its digest is its name."""

    digest: str
    name: str
    size: int
    uploaded_at: datetime
    uploaded_by: str
    files: tuple[str, ...]
    models: Mapping[str, int] = field(default_factory=dict)  # each .safetensors file and its bytes

    def model_size(self, model: str | None) -> int:
        """Bytes of the model that a job begins with; 0 when its code makes it."""
        return self.models.get(model or "", 0)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A site's word that nothing of a job runs there, and what the job held there before."""

    at: datetime
    freed: tuple[str, ...] = ()  # in words: "gpu GPU-1a2b"


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One job. `submission`, `signature` and `chain` are exactly what the person sent."""

    id: str
    name: str
    app: str
    spec: JobSpec
    targets: tuple[str, ...]  # the sites it was submitted for
    submission: str
    signature: str  # hex
    chain: str
    token: str
    submitted_by: str
    submitted_at: datetime
    state: JobState = JobState.QUEUED
    reason: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    granted: tuple[str, ...] = ()  # sites that were told to deploy it, or are about to be
    members: tuple[str, ...] = ()  # sites that were ready at least once
    refusals: Mapping[str, str] = field(default_factory=dict)  # site -> why it will not run this job
    round: int = 0  # the round that comes next
    model: StateRef | None = None  # the workflow's saved state
    results: Mapping[str, BlobRef] = field(default_factory=dict)
    causes: tuple[Cause, ...] = ()
    outcome: str = ""  # in FINISHING: the terminal state to come
    unconfirmed: tuple[str, ...] = ()  # from its end on: sites that have not confirmed that nothing runs
    proofs: Mapping[str, Proof] = field(default_factory=dict)  # of those that have
    degraded: bool = False  # some round lacked a site that was asked for
    aborted_by: str = ""  # the person's identity
    late: Mapping[str, int] = field(default_factory=dict)  # site -> updates that came too late
    restarts: int = 0  # of the workflow's process, in the open round
    origin: Origin | None = None  # of a clone
    base: int = 0  # the round that a clone began with; those before are the origin's

    @property
    def quorum(self) -> int:
        """How many contributors a round needs."""
        return self.spec.sites.min or len(self.targets)

    @property
    def active(self) -> bool:
        """Whether sites are to run it."""
        return self.state in (JobState.DEPLOYING, JobState.RUNNING)

    @property
    def holders(self) -> tuple[str, ...]:
        """Sites that may hold something of it: told of it, not refused, and nothing proven since."""
        told = {*self.granted, *self.members} - self.refusals.keys() - self.proofs.keys()
        return tuple(sorted(told))


@dataclass(frozen=True, kw_only=True)
class UpdateRecord:
    """One accepted update of an open round."""

    job_id: str
    task_id: str
    site: str
    kind: str
    tensors: BlobRef
    samples: int
    weight: float | None
    metrics: Mapping[str, float]
    seconds: float

    @property
    def key(self) -> str:
        """Its id in the store."""
        return f"{self.job_id}/{self.task_id}/{self.site}"

    def contributor(self) -> Contributor:
        """Its line in the round's document."""
        return Contributor(
            site=self.site,
            samples=self.samples,
            weight=float(self.samples) if self.weight is None else self.weight,
            bytes=self.tensors.size,
            seconds=self.seconds,
            metrics=self.metrics,
        )


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round that is over."""

    job_id: str
    round: int
    started_at: datetime | None
    finished_at: datetime | None
    contributors: tuple[Contributor, ...]
    absent: tuple[Missing, ...]
    refused: tuple[Missing, ...]
    metrics: Mapping[str, float]
    state: StateRef | None = None  # what the workflow saved after it: a checkpoint, while it is kept
    spared: tuple[str, ...] = ()  # sites whose answer to a task the workflow did not wait for

    def without_state(self) -> RoundRecord:
        """The same, when its checkpoint has gone."""
        return replace(self, state=None)

    @property
    def key(self) -> str:
        """Its id in the store; sorts by round."""
        return f"{self.job_id}/{self.round:06d}"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Who did something to a site, when, and why."""

    by: str  # an identity's URI
    at: datetime
    reason: str = ""

    @property
    def said(self) -> str:
        """`on 2026-01-31 12:00:00 UTC by ada: the laptop was stolen`."""
        why = f": {self.reason}" if self.reason else ""
        return f"on {self.at:%Y-%m-%d %H:%M:%S} UTC by {self.by.rpartition('/')[2]}{why}"

    @property
    def since(self) -> str:
        """`by ada since 2026-01-31 12:03 UTC: a new disk`."""
        why = f": {self.reason}" if self.reason else ""
        return f"by {self.by.rpartition('/')[2]} since {self.at:%Y-%m-%d %H:%M} UTC{why}"


@dataclass(frozen=True, kw_only=True)
class SiteOrder:
    """What the agent of a site was told, until it has done it. Who starts anew has done either."""

    name: str
    mark: Mark
    restart: bool
    now: bool  # do not wait until the jobs there are over
    started_at: str  # of the agent that it is meant for, as its Hello says


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """What admins have decided about a site; a site that only the kit names needs none."""

    name: str
    org: str
    added: Mark | None = None  # None: the server's kit names it, or did
    locked: Mark | None = None
    removed: Mark | None = None  # wins over the kit until the site is added again
    drained: Mark | None = None  # it gets no new jobs


@dataclass(frozen=True, kw_only=True)
class SiteRecord:
    """What the server remembers of a site while it is away."""

    name: str
    org: str
    first_connected: datetime | None = None
    last_seen: datetime | None = None
    host: str = ""
    version: str = ""
    cert_not_after: datetime | None = None
    cert_serial: str = ""  # hex; of the certificate with which it came last
    cert_issued_at: datetime | None = None
    gone_at: datetime | None = None  # when its last control stream ended; None: it has one, or never had
    gone_because: str = ""
    left_by_itself: bool = False  # it said that it goes: no lost connection
