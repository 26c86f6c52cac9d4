# SPDX-License-Identifier: Apache-2.0
"""Which queued jobs start now and at which sites, and what each of the others waits for.

Pure: a snapshot in, a plan out; no clock, no store, no change of anything. The same snapshot gives
the same plan, so it may be called after every event and its reasons compared with the last ones.

The rules, in the order in which they decide:

1. Jobs are looked at by priority, the higher first, and then in the order of the queue. Nothing that
   runs is ever stopped for another.
2. A job can use a site that is connected, open, has not refused it, has told what it has, and has
   room beside the jobs that lease something there.
3. It starts, at all the sites it can use, when they are at least its quorum, among them is every
   required one, and its organisation's quota has room for it.
4. A job that waits only for other jobs to end keeps its place: what it needs is set aside at every
   site that it could use if it were alone there, and a later job may start on what is left over.
   So nobody is overtaken for ever, and no site idles for a job that waits for something else (a
   site to connect, a site that is too small, a quota). Within an organisation the same holds of
   its quota.
5. A running job that lacks some of its sites gets them, by rule 2, before anything new starts; while
   it has too few to begin, rule 4 holds for it as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from flprov.jobs.job import Resources
from flprov.jobs.quota import Allowances, Quotas, Usage
from flprov.jobs.room import Capacity, Lease, find_room, find_shortage, whole_room

READY = "has room for it, and waits with it"  # a site that a waiting job could use


@dataclass(frozen=True, kw_only=True)
class JobView:
    """What the scheduler needs to know of a job."""

    id: str
    name: str
    sites: tuple[str, ...]  # where it may run; of a running job: the sites that it still lacks
    quorum: int  # `spec.quorum(len(sites))`
    required: tuple[str, ...] = ()
    resources: Resources = Resources()  # `disk` with all that the job takes there
    priority: int = 0
    org: str = ""  # of the person who submitted it
    short: bool = False  # a running job that has not got sites enough to begin


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
    waits: Mapping[str, str] = field(default_factory=dict)  # likewise, until something changes there


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that a plan follows from."""

    jobs: tuple[JobView, ...]  # queued, the oldest first
    sites: Mapping[str, SiteView]
    running: tuple[JobView, ...] = ()  # that lack sites; see rule 5
    hold: str = ""  # why nothing may start: "the server is draining"
    quotas: Quotas = Quotas()
    usage: Mapping[str, Usage] = field(default_factory=dict)  # organisation -> what it has running


@dataclass(frozen=True, kw_only=True)
class Start:
    """Deploy a job at these sites now; in the order in which the job names them."""

    job_id: str
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do, and why the rest waits. Every queued job is in `starts` or in `reasons`.

    In `reasons` are also the `running` jobs that are short of sites, before all others.
    """

    starts: tuple[Start, ...] = ()
    joins: tuple[Start, ...] = ()  # of `running` jobs
    reasons: Mapping[str, str] = field(default_factory=dict)  # job id -> one sentence; in order
    site_reasons: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # job id -> site -> why not


def schedule(snapshot: Snapshot) -> Plan:
    """The plan that follows from a snapshot."""
    return Planning(snapshot).plan


class Planning:
    """A plan, and what is left after it: jobs that come behind all others cost only themselves."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._hold = snapshot.hold
        self._places = {name: _Place(site) for name, site in snapshot.sites.items()}
        self._allowances = Allowances(snapshot.quotas, snapshot.usage)
        self._lowest = min((job.priority for job in snapshot.jobs), default=0)
        self._told: dict[str, Mapping[str, str]] = {}
        self._short: dict[str, str] = {}
        joins = [] if self._hold else [start for job in snapshot.running for start in self._join(job)]
        self.plan = self._take(sorted(snapshot.jobs, key=lambda job: -job.priority), tuple(joins))

    def comes_last(self, job: JobView) -> bool:
        """Whether a job that was just submitted is behind everybody, at sites that were looked at."""
        return job.priority <= self._lowest and all(name in self._places for name in job.sites)

    def add(self, jobs: Sequence[JobView]) -> Plan:
        """The plan for these, as it would be in the plan of all: they are behind everybody."""
        self._told, self._short = {}, {}
        self._lowest = min([self._lowest, *(job.priority for job in jobs)])
        return self._take(jobs, ())

    def _take(self, jobs: Sequence[JobView], joins: tuple[Start, ...]) -> Plan:
        starts: list[Start] = []
        reasons = dict(self._short)
        for job in jobs:
            if self._hold:
                reasons[job.id] = self._hold
                self._told[job.id] = dict.fromkeys(job.sites, self._hold)
            elif (reason := self._try(job, starts)) is not None:
                reasons[job.id] = reason
        told = {job_id: texts for job_id, texts in self._told.items() if texts}
        return Plan(starts=tuple(starts), joins=joins, reasons=reasons, site_reasons=told)

    def _try(self, job: JobView, starts: list[Start]) -> str | None:
        """Start a queued job, or say what it waits for."""
        verdicts = self._judge(job)
        usable = [name for name, verdict in verdicts.items() if verdict.usable]
        gpus, least = job.resources.gpus, max(job.quorum, len(job.required), 1)
        shortage = self._allowances.shortage(job.org, gpus, least)
        if not shortage and _suffices(job, usable):
            chosen = self._allowances.affordable(job.org, gpus, usable, job.required)
            self._told[job.id] = _texts(verdicts)
            self._allowances.spend(job.org, gpus * len(chosen))
            self._lease(job, chosen)
            starts.append(Start(job_id=job.id, sites=tuple(chosen)))
            return None
        self._told[job.id] = _texts(verdicts, shortage or READY)
        hopeful = [name for name, verdict in verdicts.items() if verdict.usable or verdict.busy]
        if _suffices(job, hopeful) and self._allowances.reachable(job.org, gpus, least):
            self._allowances.spend(job.org, gpus * least)
            if not shortage:
                self._lease(job, hopeful, ahead=True)
        if shortage:
            return f"{shortage}{_and_sites(job, verdicts, usable)}"
        return _explain(job, verdicts)

    def _join(self, job: JobView) -> list[Start]:
        """The sites that a running job lacks and can have now."""
        verdicts = self._judge(job)
        self._told[job.id] = _texts(verdicts)
        usable = [name for name, verdict in verdicts.items() if verdict.usable]
        gpus = job.resources.gpus
        chosen = self._allowances.affordable(job.org, gpus, usable, job.required)
        self._allowances.spend(job.org, gpus * len(chosen), jobs=0)
        self._lease(job, chosen)
        if job.short and len(chosen) < len(job.sites):
            blocked = next(name for name in job.sites if name not in chosen)
            reason = verdicts[blocked].reason or READY
            self._short[job.id] = f"{blocked}: {reason}; the job has too few sites to begin"
            self._lease(job, [name for name, verdict in verdicts.items() if verdict.busy], ahead=True)
        return [Start(job_id=job.id, sites=tuple(chosen))] if chosen else []

    def _lease(self, job: JobView, names: Iterable[str], *, ahead: bool = False) -> None:
        """The room is gone for whoever comes next: taken, or set aside (rule 4)."""
        lease = Lease(job_id=job.id, name=job.name, resources=job.resources, ahead=ahead)
        for name in names:
            self._places[name].take(lease)

    def _judge(self, job: JobView) -> dict[str, _Verdict]:
        return {name: self._judge_site(job, name) for name in job.sites}

    def _judge_site(self, job: JobView, name: str) -> _Verdict:
        place = self._places.get(name)
        return _Verdict(reason="not enrolled in this project") if place is None else place.judge(job)


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """One site for one job."""

    reason: str = ""  # why the job cannot use it now; empty: it can
    busy: bool = False  # it could, were it alone there

    @property
    def usable(self) -> bool:
        return not self.reason


class _Place:
    """A site with the leases that this plan has added so far, and the room that they leave."""

    def __init__(self, site: SiteView) -> None:
        self._site = site
        self._leases = list(site.leases)
        self._capacity = site.capacity
        self._room = None if site.capacity is None else find_room(site.capacity, site.leases)
        self._fits: dict[Resources, _Verdict] = {}  # many jobs ask for the same; until the room changes

    def take(self, lease: Lease) -> None:
        """One lease more; where nobody fits any more, nothing changes."""
        if self._room is None or self._room.full:
            return
        self._leases.append(lease)
        self._room = self._room.less(lease)
        self._fits.clear()

    def judge(self, job: JobView) -> _Verdict:
        site = self._site
        if job.id in site.refused:
            return _Verdict(reason=f"refused: {site.refused[job.id]}")
        if not site.connected:
            return _Verdict(reason=site.closed or f"not connected {_since(site.since)}")
        if site.closed:
            return _Verdict(reason=site.closed)
        fit = self._fits.get(job.resources)
        if fit is None:
            fit = self._fits[job.resources] = self._fit(job.resources)
        return _Verdict(reason=site.waits[job.id]) if fit.usable and job.id in site.waits else fit

    def _fit(self, need: Resources) -> _Verdict:
        """Whether there is room for so much."""
        capacity, room = self._capacity, self._room
        if capacity is None or room is None:
            return _Verdict(reason="connected, has not yet told what it has")
        reason = find_shortage(need, room, capacity, self._leases)
        alone = reason and find_shortage(need, whole_room(capacity), capacity, ())
        return _Verdict(reason=alone or reason, busy=bool(reason) and not alone)


def _texts(verdicts: Mapping[str, _Verdict], ready: str = "") -> dict[str, str]:
    """Site by site why not, and of a site that could be used what it waits for."""
    found = ((name, verdict.reason or ready) for name, verdict in verdicts.items())
    return {name: text for name, text in found if text}


def _suffices(job: JobView, names: Sequence[str]) -> bool:
    return bool(names) and len(names) >= job.quorum and set(names).issuperset(job.required)


def _since(moment: datetime | None) -> str:
    return "yet" if moment is None else f"since {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _and_sites(job: JobView, verdicts: Mapping[str, _Verdict], usable: Sequence[str]) -> str:
    """After a quota: what will still be missing when that has room."""
    return "" if _suffices(job, usable) else f"; {_explain(job, verdicts)}"


def _explain(job: JobView, verdicts: Mapping[str, _Verdict]) -> str:
    """One sentence: the site that stands in the way, a required one first, and what the job needs."""
    blocked = [name for name, verdict in verdicts.items() if not verdict.usable]
    first = min(blocked, key=lambda name: (name not in job.required, verdicts[name].busy), default="")
    needs = f"job needs {job.quorum} of {len(job.sites)} sites"
    if job.required:
        needs += f", {', '.join(job.required)} among them"
    return f"{first}: {verdicts[first].reason}; {needs}" if first else needs
