# SPDX-License-Identifier: Apache-2.0
"""The documents that `--json` prints, as frozen values: made by the server, read by people's tools.

Fields are only ever added. Times are aware UTC; sizes are bytes; durations are seconds. The JSON
schema of each is in docs/schemas/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from flprov.wire.trustdocuments import LivePlan


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One GPU as NVML reports it."""

    index: int
    uuid: str
    name: str
    driver: str
    memory_total: int
    memory_used: int
    utilization: float | None  # percent; None where the driver does not tell
    temperature: float | None  # degrees Celsius
    processes: tuple[int, ...] = ()  # pids that hold memory on it
    leased_to: tuple[str, ...] = ()  # job ids


@dataclass(frozen=True, kw_only=True)
class CPU:
    """Processors of a machine."""

    count: int
    load: float  # 1-minute load average
    percent: float  # busy since the last heartbeat


@dataclass(frozen=True, kw_only=True)
class Space:
    """Memory or disk."""

    total: int
    available: int


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a heartbeat carries: the state of the site's machine."""

    cpu: CPU
    memory: Space
    disk: Space  # where the site keeps its state
    gpus: tuple[GPU, ...] = ()
    gpu_note: str = ""  # why there are none: "no NVIDIA driver on this machine"
    confinement: str = ""  # how job code is confined here: landlock, bubblewrap, unconfined, none
    datasets: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()  # ids of jobs with a live process
    python: str = ""  # interpreter for jobs
    notes: tuple[str, ...] = ()  # anything an operator should see, e.g. "policy allows nobody"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung of a site's ladder; the rungs are in order and the first that fails is the answer."""

    name: str  # enrolled, connected, kit_current, environment_ready, ...
    ok: bool
    since: datetime | None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class SiteDocument:
    """`site show --json`, and one item of `status --json`."""

    name: str
    org: str
    state: str  # connected | disconnected | never_connected | locked | refused: its certificate was revoked
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
    notes: tuple[str, ...] = ()


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
    warnings: tuple[CertificateWarning, ...] = ()  # certificates that end soon, or were not renewed in time


@dataclass(frozen=True, kw_only=True)
class StatusDocument:
    """`status --json`."""

    server: ServerDocument
    sites: tuple[SiteDocument, ...]


@dataclass(frozen=True, kw_only=True)
class LinkStatus:
    """A site's connection to its server, as the site sees it."""

    state: str  # connecting | connected | refused | stopped
    since: datetime
    reason: str = ""  # why it is not connected
    tries: int = 0  # dials since it was last connected


@dataclass(frozen=True, kw_only=True)
class RenewalStatus:
    """How the renewal of a site's certificate stands, as the site sees it."""

    due_at: datetime  # when it is tried next, unless something fails
    last_at: datetime | None = None  # when the one in use was made, if by renewal
    last_error: str = ""  # why the last try failed; it is tried again by itself


@dataclass(frozen=True, kw_only=True)
class RenewalDocument:
    """`cert renew NAME --json`: the certificate that a site or the server has got."""

    name: str
    serial: str  # hex
    issued_at: datetime
    not_after: datetime


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
class SiteListDocument:
    """`site ls --json`."""

    sites: tuple[SiteDocument, ...]


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


@dataclass(frozen=True, kw_only=True)
class PlannedAuthority:
    """What is to be done about the certificate authority."""

    change: str  # unchanged | new | adopted | encrypted
    root_fingerprint: str | None  # None: there is none yet
    not_after: datetime | None  # when the first of the issuing CAs ends


@dataclass(frozen=True, kw_only=True)
class PlannedParty:
    """What is to be done about one party."""

    name: str
    kind: str  # server | site | person
    org: str
    change: str  # new | changed | reissued | repaired | removed
    reason: str
    details: tuple[str, ...]  # which settings: "endpoints: a:8443 -> a:443"
    files: tuple[str, ...]  # of its kit that will differ
    folder: str  # of its kit; of a removed one: where it goes


@dataclass(frozen=True, kw_only=True)
class PlanDocument:
    """`plan --json`."""

    project: str
    project_id: str | None  # None: not provisioned yet
    workspace: str
    changes: bool  # whether `provision` has anything to do; then the exit code is 7
    unfinished: bool  # an earlier run died before it wrote down what it had done
    authority: PlannedAuthority
    parties: tuple[PlannedParty, ...]  # about which something is to be done
    unchanged: int  # parties about which nothing is
    needs: tuple[str, ...] = ()  # passphrases that `provision` will want
    notes: tuple[str, ...] = ()  # what project.yml says and nothing can be done about
    trust: str = ""  # why a newer trust bundle is to be signed; empty: it stays as it is
    live: LivePlan | None = None  # None: the live network was not asked


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
class CertificateDocument:
    """One line of `cert ls`."""

    subject: str  # the party's name, or the CA's
    kind: str  # root | ca | server | site | person | invite
    identity: str  # SPIFFE URI; empty for a CA
    state: str  # valid | overdue | expired | revoked | locked | unseen: nobody has come with it yet
    reason: str = ""  # why it is revoked, locked or overdue
    serial: str = ""  # hex; empty: not known yet
    issued_at: datetime | None = None
    not_after: datetime | None = None
    days_left: float | None = None
    how: str = ""  # kit | join | renewal | invite | provision: how it was made, as far as the server knows
    renews_itself: bool = False
    fingerprint: str = ""
    hint: str = ""  # what to do about it


@dataclass(frozen=True, kw_only=True)
class CertificateListDocument:
    """`cert ls --json`: what ends first comes first."""

    certificates: tuple[CertificateDocument, ...]
    at: datetime


@dataclass(frozen=True, kw_only=True)
class PartyChangeDocument:
    """What `site add|rm|lock|unlock`, `user rm` and `cert revoke` did, as `--json` prints it."""

    name: str
    kind: str  # site | person | invite
    change: str  # added | removed | locked | unlocked | revoked
    changed: bool  # false: it was so already, and nothing was done
    reason: str = ""
    identities: tuple[str, ...] = ()  # whose certificates were revoked, as SPIFFE URIs
    serials: tuple[str, ...] = ()  # hex; of the certificates that the server knew and revoked
    ended: int = 0  # calls that were open and were ended
    notes: tuple[str, ...] = ()  # what else there is to know or to do


@dataclass(frozen=True, kw_only=True)
class PersonDocument:
    """One item of `user ls --json`."""

    name: str
    org: str
    role: str
    identity: str
    state: str  # active | expired | revoked | unseen: has not called yet
    reason: str = ""  # why it is revoked
    last_seen: datetime | None = None  # since the server was started
    cert_not_after: datetime | None = None  # None: not known before the first call
    provisioned: bool = False  # the server's kit names the person


@dataclass(frozen=True, kw_only=True)
class PersonListDocument:
    """`user ls --json`."""

    people: tuple[PersonDocument, ...]


@dataclass(frozen=True, kw_only=True)
class CRLDocument:
    """One revocation list that `cert crl` writes."""

    name: str  # servers | sites | people
    pem: str  # one list for each CA of this kind; the one that issues now comes first
    revoked: int  # entries
    next_update: datetime | None  # None: there is no list, since nobody was revoked


@dataclass(frozen=True, kw_only=True)
class CRLListDocument:
    """`cert crl --json`."""

    lists: tuple[CRLDocument, ...]


@dataclass(frozen=True, kw_only=True)
class InviteDocument:
    """One invite; never its secret."""

    id: str
    site: str
    org: str
    state: str  # open | waiting | approved | used | expired | revoked
    approval: bool  # an admin has to compare the key's fingerprint and approve it
    created_at: datetime
    created_by: str
    not_after: datetime
    fingerprint: str = ""  # of the first key that came with it; empty: none has come yet
    came_at: datetime | None = None
    approved_at: datetime | None = None
    approved_by: str = ""
    used_at: datetime | None = None
    serial: str = ""  # of the site's certificate that was issued for it, hex
    revoked_at: datetime | None = None
    revoked_by: str = ""
    reason: str = ""  # why it was revoked


@dataclass(frozen=True, kw_only=True)
class InviteListDocument:
    """`invite ls --json`."""

    invites: tuple[InviteDocument, ...]


@dataclass(frozen=True, kw_only=True)
class InviteIssueDocument:
    """What the server answers to whoever creates an invite."""

    invite: InviteDocument
    certificate: str  # of the invite, PEM
    site_added: bool = False  # the project did not have this site
    replaced: tuple[str, ...] = ()  # ids of the site's older invites, which are revoked now


@dataclass(frozen=True, kw_only=True)
class NewInviteDocument:
    """`invite create --json`."""

    line: str  # the invite itself: as secret as a key until it is used
    invite: InviteDocument
    site_added: bool
    replaced: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class JoinDocument:
    """`join --json`."""

    site: str
    org: str
    project: str
    kit: str  # the folder
    moved_aside: str | None  # where the kit is now that was there before
    server: str
    endpoints: tuple[str, ...]
    cert_not_after: datetime
    fingerprint: str  # of the site's key
    root_fingerprint: str
