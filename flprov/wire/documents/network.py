# SPDX-License-Identifier: Apache-2.0
"""What `status`, `site` and `server` print: the server, the sites and how they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from flprov._base import dataclass
from flprov.wire.documents.logstate import LogWarning, RefusedDocument, WitnessStatus
from flprov.wire.documents.machines import CPU, GPU, Space, Vitals, WarmStart


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung of a site's ladder; the rungs are in order and the first that fails is the answer."""

    name: str  # enrolled, connected, kit_current, environment_ready, ...
    ok: bool
    since: datetime | None  # None: not known
    reason: str = ""
    job: str = ""  # the id of the one job that it is about; empty: the site as a whole


@dataclass(frozen=True, kw_only=True)
class SiteDocument:
    """`site show --json`, and one item of `status --json`."""

    name: str
    org: str
    # connected | disconnected | stopped: by itself, no link was lost | never_connected | locked
    # | refused: its certificate was revoked, or has expired
    state: str
    ladder: tuple[Rung, ...]
    gpus: tuple[GPU, ...]
    gpu_note: str
    cpu: CPU | None
    memory: Space | None
    disk: Space | None
    jobs: tuple[str, ...]
    last_seen: datetime | None
    cert_not_after: datetime | None
    version: str
    host: str = ""
    datasets: tuple[str, ...] = ()
    confinement: str = ""
    warm: WarmStart | None = None  # None from an older agent
    notes: tuple[str, ...] = ()
    drained: str = ""  # why it gets no new jobs, by whom and since when; empty: it does
    safe_to_stop: bool = False  # no job would lose anything if it stopped now
    safe_when: str = ""  # the same in words: which jobs run there
    order: str = ""  # what its agent was told and has not done yet: to stop, to start anew
    refused: tuple[RefusedDocument, ...] = ()  # calls that were refused lately and may have been this site's


@dataclass(frozen=True, kw_only=True)
class CertificateWarning:
    """A certificate that ends soon, or has not been renewed in time."""

    subject: str  # the party's name, or the CA's
    kind: str  # root | ca | server | site | person
    text: str  # one sentence
    not_after: datetime
    days_left: float
    hint: str = ""  # what to do about it


@dataclass(frozen=True, kw_only=True)
class TrackingStatus:
    """A receiver of what jobs tell, beside the server."""

    name: str  # tensorboard | mlflow
    ready: bool  # it has everything that was told before it began
    restarts: int  # how often it has ended since the server was started
    reason: str = ""  # why it ended last, until it is ready again


@dataclass(frozen=True, kw_only=True)
class ServerDocument:
    """The server's part of `status --json`."""

    name: str
    project: str
    trust_domain: str
    version: str
    protocol: int
    started_at: datetime
    cert_not_after: datetime
    listen: str
    jobs_running: int
    jobs_queued: int
    log_index: int
    disk: Space | None = None
    confinement: str = ""
    warm: WarmStart | None = None  # None from an older server
    warnings: tuple[CertificateWarning, ...] = ()  # certificates that end soon, or were not renewed in time
    drained: str = ""  # why it starts no jobs, by whom and since when; empty: it does
    safe_to_stop: bool = False  # no job runs, here or at any site
    safe_when: str = ""  # the same in words
    notes: tuple[str, ...] = ()  # anything else that an operator should see
    metrics: str = ""  # where Prometheus finds it, "off", or why there is nothing
    log_warnings: tuple[LogWarning, ...] = ()  # what is wrong with the log
    tracking: tuple[TrackingStatus, ...] = ()  # the receivers that server.yml names


@dataclass(frozen=True, kw_only=True)
class WaitingJob:
    """A job that has not begun, and why."""

    id: str
    name: str
    state: str  # queued | deploying
    reason: str


@dataclass(frozen=True, kw_only=True)
class StatusDocument:
    """`status --json`."""

    server: ServerDocument
    sites: tuple[SiteDocument, ...]
    refused: tuple[RefusedDocument, ...] = ()  # whose calls were refused lately, newest first
    waiting: tuple[WaitingJob, ...] = ()  # the oldest jobs that have not begun


@dataclass(frozen=True, kw_only=True)
class LinkStatus:
    """A site's connection to its server, as the site sees it."""

    state: str  # connecting | connected | refused | stopped
    since: datetime
    reason: str = ""  # why it is not connected
    tries: int = 0  # dials since it was last connected
    next_at: datetime | None = None  # when it is dialled again, by the site's own clock


@dataclass(frozen=True, kw_only=True)
class RenewalStatus:
    """How the renewal of a site's certificate stands, as the site sees it."""

    due_at: datetime  # when it is tried next, unless something fails
    last_at: datetime | None = None  # when the one in use was made, if by renewal
    last_error: str = ""  # why the last try failed; it is tried again by itself
    tries: int = 0  # that failed since it was due
    next_at: datetime | None = None  # when it is tried again, after a failure


@dataclass(frozen=True, kw_only=True)
class SiteStatusDocument:
    """`site status KIT --json`: what the agent of this kit says of itself, on its own machine."""

    name: str
    org: str
    project: str
    version: str
    server: tuple[str, ...]  # endpoints, "host:port", in the order in which they are tried
    connected: bool
    link: LinkStatus
    cert_not_after: datetime  # of the certificate in use, which need not be the kit's own
    policy: str  # path of policy.yml
    site_settings: str  # path of site.yml
    jobs: Mapping[str, str] = field(default_factory=dict)  # job id -> how far it is here
    vitals: Vitals | None = None  # as of the last heartbeat; None before the first
    renewal: RenewalStatus | None = None  # None from an older agent
    proxy: str = "none"  # on the way to the server, and who says so; never its password
    ladder: tuple[Rung, ...] = ()  # as far as a site can know it
    why: str = ""  # it takes no jobs now, in one sentence; empty: it does
    hint: str = ""  # the next thing to do about that
    drained: str = ""  # why the server gives it no new jobs, as it was told last
    retrying: tuple[str, ...] = ()  # what is being tried again: reason, count and when next
    witness: WitnessStatus | None = None  # what this site has vouched for of the server's log
    metrics: str = ""  # where Prometheus finds it, "off", or why there is nothing


@dataclass(frozen=True, kw_only=True)
class SiteListDocument:
    """`site ls --json`."""

    sites: tuple[SiteDocument, ...]
