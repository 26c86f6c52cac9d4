# SPDX-License-Identifier: Apache-2.0
"""The one loop that starts jobs: woken by what happens, and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from server_fakes import PATIENCE
from server_parties import ADA, signed, spec, submission, vitals
from server_world import World, broadcast, ready

from flprov.jobs import JobState, Membership, Resources
from flprov.wire.documents import GPU, Space


@pytest.fixture
async def scheduled(world) -> AsyncIterator[World]:
    """A world whose scheduler runs."""
    world.jobs.load()
    task = asyncio.create_task(world.jobs.run_scheduler())
    yield world
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def submit(world, kit, token="t", **changes):
    wish = submission(kit("leo"), world.app.digest, token=token, **changes)
    job, _ = await world.jobs.submit(wish, signed(kit("leo"), wish))
    return world.jobs.find(job.id)


ONE = spec(sites=Membership(min=1))


async def test_job_starts_at_the_sites_that_are_there_when_they_are_enough(scheduled, kit):
    sites = [scheduled.connect(name) for name in ("site-1", "site-2")]
    run = await submit(scheduled, kit)
    for fake in sites:
        assert (await fake.hears("deploy")).job_id == run.record.id
    assert run.sites.granted == {"site-1", "site-2"}
    assert run.sites.lacking == ("site-3",)


async def test_queued_job_says_what_it_waits_for_and_starts_when_that_comes(scheduled, kit):
    run = await submit(scheduled, kit)
    await scheduled.until(run, lambda seen: seen.record.reason != "")
    assert run.record.reason == "site-1: not connected yet; job needs 2 of 3 sites"
    assert run.sites.parts["site-2"].reason == "not connected yet"
    scheduled.connect("site-3")
    await scheduled.until(run, lambda seen: seen.sites.parts["site-3"].reason == "not connected yet")
    site = scheduled.connect("site-1")
    assert (await site.hears("deploy")).job_id == run.record.id


async def test_connected_site_counts_from_its_first_heartbeat(scheduled, kit):
    site = scheduled.connect("site-1")
    site.session.vitals = None
    run = await submit(scheduled, kit, spec=ONE, sites=("site-1",))
    await scheduled.until(run, lambda seen: "has not yet told what it has" in seen.record.reason)
    site.session.vitals = vitals()
    scheduled.jobs.wake()
    await site.hears("deploy")


async def test_reason_that_does_not_change_wakes_nobody(scheduled, kit):
    run = await submit(scheduled, kit)
    await scheduled.until(run, lambda seen: seen.record.reason != "")
    changes = []
    watching = scheduled.jobs.watch(run.record.id)
    await anext(watching)
    more = asyncio.create_task(anext(watching))
    for _ in range(5):
        scheduled.jobs.wake()
        await asyncio.sleep(0)
        changes.append(more.done())
    assert changes == [False] * 5
    more.cancel()
    await asyncio.gather(more, return_exceptions=True)


async def test_job_waits_for_the_room_of_another_and_has_it_when_that_ends(scheduled, kit):
    machine = vitals(memory=Space(total=1 << 30, available=1 << 30))
    site = scheduled.connect("site-1", machine=machine)
    first = await submit(scheduled, kit, "1", spec=ONE, sites=("site-1",))
    await site.hears("deploy")
    second = await submit(scheduled, kit, "2", spec=ONE, sites=("site-1",))
    await scheduled.until(second, lambda seen: "used by job" in seen.record.reason)
    assert first.record.id in second.record.reason
    await scheduled.jobs.abort(first, ADA, "")
    assert (await site.hears("stop")).job_id == first.record.id
    site.stops(first)
    assert (await site.hears("deploy")).job_id == second.record.id


async def test_site_that_returns_joins_the_running_job(scheduled, kit):
    site = scheduled.connect("site-1")
    run = await submit(scheduled, kit, spec=ONE, sites=("site-1", "site-2"))
    workflow = await scheduled.launcher.process()
    workflow.say(ready())
    await site.deploys(run)
    await scheduled.reaches(run, JobState.RUNNING)
    late = scheduled.connect("site-2")
    await late.deploys(run)
    await scheduled.until(run, lambda seen: "site-2" in seen.record.members)
    workflow.say(broadcast())
    assert (await late.hears("task")).task_id == "train/0/0"


async def test_job_waits_for_gpus_that_no_site_has(scheduled, kit):
    gpu = GPU(
        index=0, uuid="GPU-1", name="A100", driver="1", memory_total=40 << 30, memory_used=0,
        utilization=None, temperature=None,
    )  # fmt: skip
    scheduled.connect("site-1", machine=vitals(gpu_note="no NVIDIA driver on this machine"))
    wants = replace(ONE, resources=Resources(gpus=1))
    run = await submit(scheduled, kit, spec=wants, sites=("site-1", "site-2"))
    await scheduled.until(run, lambda seen: "no NVIDIA driver" in seen.record.reason)
    taken = vitals(gpus=(replace(gpu, leased_to=("a job of before",)),))
    other = scheduled.connect("site-2", machine=taken)
    await scheduled.until(run, lambda seen: "needs 1 GPU" in seen.sites.parts["site-2"].reason)
    other.session.vitals = vitals(gpus=(gpu,))
    scheduled.jobs.wake()
    assert (await other.hears("deploy")).job_id == run.record.id


async def test_fault_in_one_plan_does_not_end_scheduling(scheduled, kit, monkeypatch, caplog):
    snapshot = scheduled.jobs.scheduler.snapshot
    monkeypatch.setattr(scheduled.jobs.scheduler, "snapshot", lambda: 1 / 0)
    site = scheduled.connect("site-1")
    run = await submit(scheduled, kit, spec=ONE, sites=("site-1",))
    await site.fence(run)
    assert "nothing could be scheduled" in caplog.text
    monkeypatch.setattr(scheduled.jobs.scheduler, "snapshot", snapshot)
    scheduled.jobs.wake()
    assert (await site.hears("deploy")).job_id == run.record.id


async def test_target_that_has_left_the_project_holds_up_its_own_job_only(scheduled, kit):
    """The project was provisioned again without site-9 while a job for it was in the queue."""
    await scheduled.put_job(id="old", targets=("site-1", "site-9"))
    await scheduled.reboot()
    task = asyncio.create_task(scheduled.jobs.run_scheduler())
    old = scheduled.jobs.find("old")
    await scheduled.until(old, lambda seen: "site-9" in seen.record.reason or "site-1" in seen.record.reason)
    assert old.sites.parts["site-9"].reason == "not enrolled in this project"
    site = scheduled.connect("site-1")
    run = await submit(scheduled, kit, "new", spec=ONE, sites=("site-1",))
    assert (await site.hears("deploy")).job_id == run.record.id
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(task, return_exceptions=True)
