# SPDX-License-Identifier: Apache-2.0
"""Scheduling among its surroundings: sites that say no for now, quotas that change, what plans cost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from server_parties import ADA, LEO, signed, spec, submission, vitals
from server_world import World

from flprov._base import canonical_json
from flprov.errors import NoRoom
from flprov.jobs import JobState, Membership, Resources
from flprov.server.jobs import events as ev
from flprov.server.jobs import planning
from flprov.server.jobs.quotas import QuotaFile
from flprov.server.jobs.waits import Waits, fingerprint
from flprov.server.records import Mark
from flprov.wire import pb
from flprov.wire.documents import CPU, SiteOffer, SiteRoom, Space

GIB = 1 << 30
ONE = spec(sites=Membership(min=1))


@pytest.fixture
async def scheduled(world) -> AsyncIterator[World]:
    """A world whose scheduler runs."""
    world.jobs.load()
    task = asyncio.create_task(world.jobs.run_scheduler())
    yield world
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def submit(world, kit, token="t", *, who="leo", **changes):
    wish = submission(
        kit(who), world.app.digest, token=token, **{"spec": ONE, "sites": ("site-1",)} | changes
    )
    job, _ = await world.jobs.submit(wish, signed(kit(who), wish))
    return world.jobs.find(job.id)


def roomy(memory=32 * GIB, cpus=64, **changes):
    return vitals(room=SiteRoom(cpus=cpus, memory=memory, disk=32 * GIB), **changes)


def has_no_room(world, site, run, reason="needs 1 GPU, has 0"):
    """As the service of sites does when that answer comes."""
    world.jobs.scheduler.defer(site.name, run.record.id, reason)
    run.tell(ev.SiteDeployed(site=site.name, ready=False, refusal=reason, code="no-room", transient=True))


def beats(world, site, machine):
    site.session.vitals = machine
    world.jobs.scheduler.heard(site.session)


# ---- a site that has no room after all ---------------------------------------------------------


async def test_a_site_without_room_is_asked_again_when_its_room_has_changed(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    beats(scheduled, site, roomy())
    run = await submit(scheduled, kit)
    await site.hears("deploy")
    has_no_room(scheduled, site, run)
    await scheduled.until(
        run, lambda seen: "has no room" in seen.record.reason or "asked" in seen.record.reason
    )
    assert run.record.state is JobState.DEPLOYING
    assert run.record.refusals == {}
    assert run.sites.parts["site-1"].reason == "had no room when it was asked: needs 1 GPU, has 0"
    beats(scheduled, site, roomy(memory=31 * GIB))
    assert (await site.hears("deploy")).job_id == run.record.id


async def test_a_site_that_tells_of_the_same_room_is_asked_again_less_and_less_often(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    beats(scheduled, site, roomy())
    run = await submit(scheduled, kit)
    counts = []
    for _ in range(3):
        await site.hears("deploy")
        has_no_room(scheduled, site, run)
        await site.fence(run)
        beaten = 0
        while not site.session.waiting:
            beats(scheduled, site, roomy())
            beaten += 1
            for _ in range(10):
                await asyncio.sleep(0)
        counts.append(beaten)
    assert counts == [1, 2, 4]


async def test_how_often_a_site_said_no_is_said(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    run = await submit(scheduled, kit)
    for memory in (32, 31):
        await site.hears("deploy")
        has_no_room(scheduled, site, run)
        await site.fence(run)
        beats(scheduled, site, roomy(memory=memory * GIB))
        if memory == 32:
            continue
    await site.hears("deploy")
    has_no_room(scheduled, site, run)
    await scheduled.until(run, lambda seen: "(3 times)" in seen.sites.parts["site-1"].reason)


def test_room_that_stands_still_but_for_noise_is_the_same_room():
    assert fingerprint(roomy(memory=32 * GIB + 5)) == fingerprint(roomy(memory=32 * GIB + 9_000_000))
    assert fingerprint(roomy(memory=32 * GIB)) != fingerprint(roomy(memory=30 * GIB))


def test_heartbeats_without_news_wake_nobody():
    waits = Waits()
    assert waits.heard("a", roomy())
    assert not waits.heard("a", roomy())
    assert waits.heard("a", roomy(cpus=3))


async def test_a_site_that_comes_back_with_the_same_room_gets_what_waits_for_it(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    beats(scheduled, site, roomy())
    site.leave()
    run = await submit(scheduled, kit)
    await scheduled.until(run, lambda seen: "not connected" in seen.record.reason)
    site = scheduled.connect("site-1")
    site.session.vitals = None  # it has not told yet
    await scheduled.until(run, lambda seen: "has not yet told" in seen.record.reason)
    beats(scheduled, site, roomy())
    assert (await site.hears("deploy")).job_id == run.record.id


# ---- the server's own rules ----------------------------------------------------------------------


async def test_a_quota_is_read_again_when_its_file_changes(scheduled, kit, tmp_path):
    path = tmp_path / "server.yml"
    path.write_text("listen: 127.0.0.1:1\nquota: {jobs: 1}\n")
    scheduled.jobs.scheduler.quotas = QuotaFile(path)
    site = scheduled.connect("site-1", machine=roomy())
    first = await submit(scheduled, kit, "1")
    await site.hears("deploy")
    second = await submit(scheduled, kit, "2")
    await scheduled.until(second, lambda seen: seen.record.reason != "")
    assert second.record.reason == "org-a has 1 of 1 job running (its quota)"
    other = await submit(scheduled, kit, "3", who="lea")  # of org-b
    assert (await site.hears("deploy")).job_id == other.record.id
    path.write_text("quotas: {org-a: {jobs: 2}}\n")
    scheduled.jobs.wake()
    assert (await site.hears("deploy")).job_id == second.record.id
    assert first.record.state is JobState.DEPLOYING


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quota: {jobs: -1}\n", "'jobs'"),
        ("quota: {jbos: 1}\n", "jbos"),
        ("quotas: {org-a: 3}\n", "org-a"),
        ("quota: [\n", "server.yml"),
    ],
)
def test_a_file_with_mistakes_changes_nothing_and_is_shown(tmp_path, text, said):
    path = tmp_path / "server.yml"
    path.write_text("quota: {jobs: 3}\n")
    quotas = QuotaFile(path)
    good = quotas.read()
    path.write_text(text)
    os.utime(path, ns=(1, 1))
    assert quotas.read() == good
    [note] = quotas.notes
    assert note.startswith("the quotas are as before: ")
    assert said in note
    path.write_text("quota: {jobs: 4}\n")
    os.utime(path, ns=(2, 2))
    assert quotas.read().everybody.jobs == 4
    assert quotas.notes == ()


def test_without_a_file_there_are_no_quotas(tmp_path):
    assert QuotaFile(tmp_path / "server.yml").read().of("org-a").jobs is None


async def test_a_drained_site_gets_nothing_new_and_says_by_whom(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    scheduled.registry.enrol(
        replace(
            scheduled.registry.enrolment("site-1"),
            drained=Mark(by=ADA.uri, at=scheduled.clock.now(), reason="disk"),
        )
    )
    run = await submit(scheduled, kit)
    await scheduled.until(run, lambda seen: "drained by ada since" in seen.record.reason)
    assert site.session.waiting == 0


# ---- what it costs -------------------------------------------------------------------------------


async def test_submissions_one_after_the_other_cost_no_whole_plan_each(scheduled, kit):
    scheduled.connect("site-1", machine=roomy(cpus=1, cpu=CPU(count=1, load=0, percent=0)))
    first = await submit(scheduled, kit, "first")
    await scheduled.until(first, lambda seen: seen.record.state is JobState.DEPLOYING)
    whole = 0
    snapshot = scheduled.jobs.scheduler.snapshot

    def counted():
        nonlocal whole
        whole += 1
        return snapshot()

    scheduled.jobs.scheduler.snapshot = counted
    runs = [await submit(scheduled, kit, f"t{n}") for n in range(50)]
    await scheduled.until(runs[-1], lambda seen: seen.record.reason != "")
    assert all("used by job" in run.record.reason for run in runs)
    assert whole <= 2
    urgent = await submit(scheduled, kit, "urgent", who="ada", spec=replace(ONE, priority=3))
    await scheduled.until(urgent, lambda seen: seen.record.reason != "")
    assert whole <= 4
    assert next(iter(scheduled.jobs.scheduler._planning.plan.reasons)) == urgent.record.id


async def test_many_events_in_one_go_are_one_plan(scheduled, kit):
    await submit(scheduled, kit)
    plans = 0
    plan = scheduled.jobs.scheduler._plan

    def counted():
        nonlocal plans
        plans += 1
        return plan()

    scheduled.jobs.scheduler._plan = counted
    for _ in range(100):
        scheduled.jobs.wake()
    for _ in range(10):
        await asyncio.sleep(0)
    assert plans == 1


# ---- planning ------------------------------------------------------------------------------------


async def plan(world, kit, **changes):
    wish = submission(kit("leo"), world.app.digest, **{"spec": ONE, "sites": ("site-1",)} | changes)
    asked = asyncio.create_task(world.jobs.plans.plan(wish, signed(kit("leo"), wish)))
    await asyncio.sleep(0)
    return wish, asked


async def answer(world, site, *refusals: tuple[str, str], notes=None):
    probe = await site.hears("probe")
    offer = notes or canonical_json(SiteOffer(cpus=4, memory=GIB, disk=GIB))
    failures = [pb.Failure(code=code, message=message, hint="ask them") for code, message in refusals]
    world.jobs.plans.heard(site.name, pb.Probed(probe_id=probe.probe_id, refusals=failures, notes=offer))
    return probe


async def test_a_plan_says_that_a_job_would_start_and_makes_none(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    wish, asked = await plan(scheduled, kit)
    probe = await answer(scheduled, site)
    found = await asked
    assert probe.submission == wish.encode()
    assert (found.starts, found.reason, found.position) == (True, "", 0)
    assert [(line.site, line.verdict, line.room.cpus) for line in found.sites] == [("site-1", "runs", 4)]
    assert scheduled.jobs.all() == []


async def test_every_verdict_with_its_reason(scheduled, kit):
    sites = [scheduled.connect(name, machine=roomy()) for name in ("site-1", "site-2")]
    _, asked = await plan(
        scheduled, kit, spec=spec(sites=Membership(min=1)), sites=("site-1", "site-2", "site-3")
    )
    await answer(scheduled, sites[0], ("policy-refused", "only org-b"), ("no-room", "needs 1 GPU"))
    await answer(scheduled, sites[1], ("no-room", "needs 1 GPU"))
    found = await asked
    assert [(line.site, line.verdict, line.reason) for line in found.sites] == [
        ("site-1", "refuses", "only org-b"),
        ("site-2", "waits", "needs 1 GPU"),
        ("site-3", "away", "not connected yet"),
    ]
    assert [one.code for one in found.sites[0].objections] == ["policy-refused", "no-room"]
    assert found.sites[0].objections[0].hint == "ask them"
    assert found.reason == "0 of 3 sites would run it now, and it needs 1"
    assert found.position == 1


async def test_a_site_that_does_not_answer_is_silent_and_its_late_answer_is_passed_over(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    scheduled.jobs.plans._patience = 0.01
    _, asked = await plan(scheduled, kit)
    found = await asked
    assert [(line.verdict, line.reason) for line in found.sites] == [
        ("silent", "connected, and did not answer within 0.01 s")
    ]
    await answer(scheduled, site)


async def test_an_answer_that_cannot_be_read_is_an_answer_without_figures(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy())
    _, asked = await plan(scheduled, kit)
    await answer(scheduled, site, notes=b'{"cpus": -1}')
    found = await asked
    assert (found.sites[0].verdict, found.sites[0].room) == ("runs", None)


async def test_the_place_in_the_queue_is_that_of_its_priority(scheduled, kit):
    site = scheduled.connect("site-1", machine=roomy(cpus=0, cpu=CPU(count=1, load=0, percent=0)))
    for priority in (0, 0, -5):
        await submit(
            scheduled, kit, f"p{priority}{len(scheduled.jobs.all())}", spec=replace(ONE, priority=priority)
        )
    places = {}
    for priority in (0, -5, -9):
        _, asked = await plan(scheduled, kit, spec=replace(ONE, priority=priority), token=f"x{priority}")
        await answer(scheduled, site)
        places[priority] = (await asked).position
    assert places == {0: 3, -5: 4, -9: 4}


async def test_a_job_that_cannot_fit_the_server_s_disk_is_refused_with_figures(scheduled, kit):
    record = scheduled.jobs.apps[scheduled.app.digest]
    scheduled.jobs.apps[record.digest] = replace(record, models={"big.safetensors": 1 << 50})
    wants = replace(ONE, model="big.safetensors")
    wish = submission(kit("leo"), record.digest, spec=wants, sites=("site-1", "site-2"))
    with pytest.raises(NoRoom) as caught:
        scheduled.jobs.plans.verify_fits(wish)
    assert (
        "the job would take 7168 TiB of the server's disk (2 updates and 3 checkpoints of 1024 TiB each"
        in str(caught.value)
    )
    scheduled.jobs.plans.verify_fits(submission(kit("leo"), record.digest, spec=ONE))


async def test_a_job_is_refused_when_the_server_s_disk_is_full(scheduled, kit, monkeypatch):
    wish = submission(kit("leo"), scheduled.app.digest, spec=ONE)
    monkeypatch.setattr(planning, "_free", lambda _: 1000)
    with pytest.raises(NoRoom, match="the server's disk is full"):
        scheduled.jobs.plans.verify_fits(wish)


async def test_a_site_is_told_how_large_the_model_is(scheduled, kit):
    record = scheduled.jobs.apps[scheduled.app.digest]
    scheduled.jobs.apps[record.digest] = replace(record, models={"big.safetensors": 1000})
    site = scheduled.connect("site-1", machine=roomy())
    wants = replace(ONE, model="big.safetensors", resources=Resources(disk=5))
    run = await submit(scheduled, kit, spec=wants)
    told = await site.hears("deploy")
    assert (told.app_size, told.model_size) == (record.size, 1000)
    view = scheduled.jobs.scheduler._view(run)
    assert view.resources.disk == 5 + 2 * record.size + 2 * 1000
    assert view.org == LEO.org


async def test_memory_that_others_use_at_a_site_is_waited_for(scheduled, kit):
    machine = roomy(memory=GIB // 2)
    site = scheduled.connect(
        "site-1", machine=replace(machine, memory=Space(total=64 * GIB, available=GIB // 2))
    )
    run = await submit(scheduled, kit)
    await scheduled.until(
        run, lambda seen: "512 MiB free of 64 GiB, 63.5 GiB used by others" in seen.record.reason
    )
    beats(scheduled, site, roomy())
    assert (await site.hears("deploy")).job_id == run.record.id
