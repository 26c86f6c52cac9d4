# SPDX-License-Identifier: Apache-2.0
"""Which queued jobs start now and at which sites, and what each of the others waits for.

Pure: a snapshot in, a plan out; no clock, no store, no change of anything. The same snapshot gives
the same plan, so it may be called after every event and its reasons compared with the last ones.

The rules, in the order in which they decide:

1. Jobs are looked at in the order of the queue.
2. A job can use a site that is connected, open, has not refused it, has told what it has, and has
   room beside the jobs that lease something there.
3. It starts, at all the sites it can use, when they are at least its quorum and among them is every
   required one.
4. A job that waits only for other jobs to end keeps its place: what it needs is set aside at every
   site that it could use if it were alone there, and a later job may start on what is left over.
   So nobody is overtaken for ever, and no site idles for a job that waits for something else (a
   site to connect, a site that is too small).
5. A running job that lacks some of its sites gets them, by rule 2, before anything new starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from flprov.jobs.job import Resources
from flprov.jobs.room import Capacity, Lease, Room, find_room, find_shortage, whole_room


@dataclass(frozen=True, kw_only=True)
class JobView:
    """What the scheduler needs to know of a job."""

    id: str
    name: str
    sites: tuple[str, ...]  # where it may run; of a running job: the sites that it still lacks
    quorum: int  # `spec.quorum(len(sites))`
    required: tuple[str, ...] = ()
    resources: Resources = Resources()


@dataclass(frozen=True, kw_only=True)
class SiteView:
    """What the scheduler needs to know of a site."""

    name: str
    connected: bool
    since: datetime | None = None  # when it last connected or was lost; None: never
    closed: str = ""  # why it takes no new job: "drained by ana since 12:03"
    capacity: Capacity | None = None  # None: connected, but no heartbeat has said yet
    leases: tuple[Lease, ...] = ()  # of jobs that are deploying, running or stopping there
    refused: Mapping[str, str] = field(default_factory=dict)  # job id -> why the site will not take it


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a plan follows from."""

    jobs: tuple[JobView, ...]  # queued, in order
    sites: Mapping[str, SiteView]
    running: tuple[JobView, ...] = ()  # that lack sites; see rule 5
    hold: str = ""  # why nothing may start: "the server is draining"


@dataclass(frozen=True, kw_only=True)
class Start:
    """Deploy a job at these sites now; in the order in which the job names them."""

    job_id: str
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, and why the rest waits. Every queued job is in `starts` or in `reasons`."""

    starts: tuple[Start, ...] = ()
    joins: tuple[Start, ...] = ()  # of `running` jobs
    reasons: Mapping[str, str] = field(default_factory=dict)  # job id -> one sentence
    site_reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # job id -> site -> why not


def schedule(snapshot: Snapshot) -> Plan:
    """The plan that follows from a snapshot."""
    if snapshot.hold:
        return Plan(reasons={job.id: snapshot.hold for job in snapshot.jobs})
    places = {name: _Place.of(site) for name, site in snapshot.sites.items()}
    starts, joins = [], []
    reasons: dict[str, str] = {}
    site_reasons: dict[str, Mapping[str, str]] = {}
    for job in snapshot.running:
        verdicts = _judge(job, places)
        joins += _start(job, places, verdicts)
        site_reasons[job.id] = _texts(verdicts)
    for job in snapshot.jobs:
        verdicts = _judge(job, places)
        site_reasons[job.id] = _texts(verdicts)
        if _suffices(job, (name for name, verdict in verdicts.items() if verdict.usable)):
            starts += _start(job, places, verdicts)
            continue
        reasons[job.id] = _explain(job, verdicts)
        if _suffices(job, (name for name, verdict in verdicts.items() if verdict.usable or verdict.busy)):
            _keep_place(job, places, verdicts)
    told = {job_id: texts for job_id, texts in site_reasons.items() if texts}
    return Plan(starts=tuple(starts), joins=tuple(joins), reasons=reasons, site_reasons=told)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A site with the leases that this plan has added so far, and the room that they leave."""

    site: SiteView
    room: Room | None  # None: the site has not told what it has

    @staticmethod
    def of(site: SiteView) -> _Place:
        room = None if site.capacity is None else find_room(site.capacity, site.leases)
        return _Place(site=site, room=room)

    def leased(self, lease: Lease) -> _Place:
        return _Place.of(replace(self.site, leases=(*self.site.leases, lease)))


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """One site for one job."""

    reason: str = ""  # why the job cannot use it now; empty: it can
    busy: bool = False  # it could, were it alone there

    @property
    def usable(self) -> bool:
        return not self.reason


def _texts(verdicts: Mapping[str, _Verdict]) -> dict[str, str]:
    return {name: verdict.reason for name, verdict in verdicts.items() if verdict.reason}


def _suffices(job: JobView, names: Iterable[str]) -> bool:
    found = set(names)
    return bool(found) and len(found) >= job.quorum and found.issuperset(job.required)


def _judge(job: JobView, places: Mapping[str, _Place]) -> dict[str, _Verdict]:
    return {name: _judge_place(job, places.get(name)) for name in job.sites}


def _judge_place(job: JobView, place: _Place | None) -> _Verdict:
    if place is None:
        return _Verdict(reason="not enrolled in this project")
    site = place.site
    if job.id in site.refused:
        return _Verdict(reason=f"refused: {site.refused[job.id]}")
    if not site.connected:
        return _Verdict(reason=site.closed or f"not connected {_since(site.since)}")
    if site.closed:
        return _Verdict(reason=site.closed)
    if site.capacity is None or place.room is None:
        return _Verdict(reason="connected, has not yet told what it has")
    reason = find_shortage(job.resources, place.room, site.capacity, site.leases)
    if not reason:
        return _Verdict()
    alone = find_shortage(job.resources, whole_room(site.capacity), site.capacity, ())
    return _Verdict(reason=alone or reason, busy=not alone)


def _since(moment: datetime | None) -> str:
    return "yet" if moment is None else f"since {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _start(job: JobView, places: dict[str, _Place], verdicts: Mapping[str, _Verdict]) -> list[Start]:
    """Start the job at its usable sites: their room is gone for whoever comes next."""
    lease = Lease(job_id=job.id, name=job.name, resources=job.resources)
    chosen = tuple(name for name, verdict in verdicts.items() if verdict.usable)
    places.update({name: places[name].leased(lease) for name in chosen})
    return [Start(job_id=job.id, sites=chosen)] if chosen else []


def _keep_place(job: JobView, places: dict[str, _Place], verdicts: Mapping[str, _Verdict]) -> None:
    """Set aside what the job waits for (rule 4): later jobs see it as taken."""
    lease = Lease(job_id=job.id, name=job.name, resources=job.resources, ahead=True)
    chosen = [name for name, verdict in verdicts.items() if verdict.usable or verdict.busy]
    places.update({name: places[name].leased(lease) for name in chosen})


def _explain(job: JobView, verdicts: Mapping[str, _Verdict]) -> str:
    """One sentence: the site that stands in the way, a required one first, and what the job needs."""
    blocked = [name for name, verdict in verdicts.items() if not verdict.usable]
    first = min(blocked, key=lambda name: (name not in job.required, verdicts[name].busy), default="")
    needs = f"job needs {job.quorum} of {len(job.sites)} sites"
    if job.required:
        needs += f", {', '.join(job.required)} among them"
    return f"{first}: {verdicts[first].reason}; {needs}" if first else needs
