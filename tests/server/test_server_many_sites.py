# SPDX-License-Identifier: Apache-2.0
"""What a server does for each site or each event does not grow with sites, or with jobs of the past.

Counted, not timed: benchmarks/herd.py takes the times, with a thousand real agents.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
from server_parties import SITE_ORGS, vitals
from server_world import train

from flprov._base import canonical_json
from flprov.jobs import JobState
from flprov.rpc import crossing
from flprov.server.foreign import read_vitals
from flprov.server.jobs.jobs import Jobs
from flprov.server.jobs.sites import JobSites
from flprov.server.operations.safety import server_safety, site_safety
from flprov.server.records import Enrolment, Mark, RoundRecord
from flprov.server.server import warn_of_few_files
from flprov.server.sights.scene import Scene
from flprov.server.sights.sites import site_documents
from flprov.wire.documents import Contributor


@pytest.fixture
def refuse_history(monkeypatch):
    """From now on nobody looks through all jobs."""
    monkeypatch.setattr(Jobs, "all", lambda _: pytest.fail("all jobs of all times were looked through"))


async def test_status_and_plans_look_at_no_job_of_the_past(world, refuse_history):
    for number in range(5):
        await world.put_job(id=f"{number}old", state=JobState.COMPLETED)
    job = await train(world, "site-1", "site-2")
    scene = Scene(clock=world.clock, registry=world.registry, sessions=world.sessions, jobs=world.jobs)
    found = {site.name: site.jobs for site in site_documents(scene)}
    assert found == {"site-1": (job.run.record.id,), "site-2": (job.run.record.id,), "site-3": ()}
    assert [run.record.id for run in world.jobs.going()] == [job.run.record.id]
    assert world.jobs.scheduler.snapshot().jobs == ()
    assert not site_safety(world.jobs, "site-1", drained=False).safe
    assert not server_safety(world.jobs, drained=False).safe


async def test_safety_of_a_site_asks_no_job_that_waits_in_the_queue(world, monkeypatch):
    for number in range(20):
        await world.put_job(id=f"{number}waits")
    running = await train(world, "site-1", "site-2", id="runs")
    asked: list[str] = []
    holds = JobSites.holds

    def note(sites: JobSites, name: str) -> bool:
        asked.append(name)
        return holds(sites, name)

    monkeypatch.setattr(JobSites, "holds", note)
    assert site_safety(world.jobs, "site-1", drained=False).jobs == (running.run.record.id,)
    assert site_safety(world.jobs, "site-3", drained=False).safe
    assert asked == ["site-1", "site-3"]


class Lines(tuple):
    """Who gave something to a round; notes when somebody goes through them."""

    looks: ClassVar[list[int]] = []

    def __iter__(self):
        self.looks.append(1)
        return super().__iter__()


def looks(work: Callable[[], object]) -> int:
    """How many rounds were looked through meanwhile."""
    Lines.looks.clear()
    work()
    return len(Lines.looks)


async def test_status_looks_at_each_round_of_a_job_once_however_many_sites_there_are(world):
    job = await train(world, "site-1", "site-2")
    scene = Scene(clock=world.clock, registry=world.registry, sessions=world.sessions, jobs=world.jobs)
    now = world.clock.now()

    def over(number: int, *names: str) -> None:
        lines = Lines(Contributor(site=name, samples=1, weight=1.0, bytes=1, seconds=1.0) for name in names)
        times = {"started_at": now, "finished_at": now}
        lacks = {"absent": (), "refused": ()}
        world.jobs._keep_round(
            RoundRecord(job_id="0job", round=number, contributors=lines, metrics={}, **times, **lacks)
        )

    def status() -> dict[str, list[str]]:
        found = {site.name: site.ladder for site in site_documents(scene)}
        return {
            name: [rung.reason for rung in rungs if rung.name == "contributed"]
            for name, rungs in found.items()
        }

    for number in range(5):
        over(number, "site-1")
    assert looks(status) == 5
    assert looks(status) == 0
    assert status() == {"site-1": ["to round 5"], "site-2": [], "site-3": []}
    over(5, "site-2")
    assert looks(status) == 1
    assert status() == {"site-1": ["to round 5"], "site-2": ["to round 6"], "site-3": []}
    assert set(world.jobs._contributed) == {"0job"}
    job.workflow.end()
    await world.reaches(job.run, JobState.FINISHING)
    assert world.jobs.contributed("0job", "site-2").round == 5
    assert world.jobs._contributed == {}  # of a job that has ended nothing is kept


async def test_job_that_is_over_is_looked_at_until_its_last_site_has_proven_it(world):
    for id_, unconfirmed in (("1old", ("site-1",)), ("2old", ())):
        targets = tuple(sorted(SITE_ORGS))
        await world.put_job(id=id_, state=JobState.ABORTED, unconfirmed=unconfirmed, granted=targets)
    world.jobs.load()
    assert [run.record.id for run in world.jobs.going()] == ["1old"]
    run = world.jobs.find("1old")
    site = world.connect("site-1")
    await site.hears("stop")
    site.stops(run)
    await world.over(run)
    assert world.jobs.going() == []
    assert len(world.jobs.all()) == 2


async def test_heartbeats_of_all_sites_together_stay_at_fifty_a_second(dial, world):
    few = await dial("site-1").open()
    added = Mark(by="spiffe://x/person/o/admin/ada", at=world.clock.now())
    for number in range(1_000):
        world.registry.enrol(Enrolment(name=f"more-{number}", org="org-a", added=added))
    many = await dial("site-2").open()
    assert few.heartbeat_seconds < 20 <= many.heartbeat_seconds < 21


async def test_heartbeat_with_plain_text_is_not_looked_at_letter_by_letter(monkeypatch):
    looked = []
    real = crossing.unicodedata.category
    monkeypatch.setattr(
        crossing.unicodedata, "category", lambda c: looked.append(c) or real(c), raising=False
    )
    plain = vitals()
    assert read_vitals(canonical_json(plain)) == plain
    assert looked == []
    odd = read_vitals(canonical_json(replace(plain, notes=("a\x1b[2Jb\u202e",))))
    assert odd.notes == ("a?[2Jb?",)


def test_too_few_files_for_so_many_sites_are_said(monkeypatch, caplog):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    with caplog.at_level(logging.WARNING):
        warn_of_few_files(500)
        assert caplog.records == []
        warn_of_few_files(1_000)
    assert "4096 files open, and 1000 sites may need 6000" in caplog.text
