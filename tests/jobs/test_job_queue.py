# SPDX-License-Identifier: Apache-2.0
"""The queue: priority, quotas, measured room, and a plan that goes on; laws on random snapshots."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from flprov.jobs import (
    READY,
    Capacity,
    GPURoom,
    JobView,
    Lease,
    Plan,
    Planning,
    Quota,
    Quotas,
    Resources,
    SiteView,
    Snapshot,
    Start,
    Usage,
    find_room,
    schedule,
)
from flprov.jobs.room import Left, Most, whole_room

GIB = 2**30


def capacity(cpus=8, gpus=0, free=None, **rest) -> Capacity:
    cards = tuple(GPURoom(uuid=f"GPU-{n}", memory=24 * GIB, free=free, index=n) for n in range(gpus))
    return Capacity(**{"cpus": cpus, "memory": 16 * GIB, "gpus": cards} | rest)


def site(name: str, **changes) -> SiteView:
    return replace(SiteView(name=name, connected=True, capacity=capacity()), **changes)


def job(key: str, sites="a", quorum=None, *, priority=0, org="org-a", required=(), short=False, **needs):
    return JobView(
        id=key,
        name=f"name-{key}",
        sites=tuple(sites),
        quorum=len(sites) if quorum is None else quorum,
        required=tuple(required),
        resources=Resources(**needs),
        priority=priority,
        org=org,
        short=short,
    )


def lease(key: str, **needs) -> Lease:
    return Lease(job_id=key, name=f"name-{key}", resources=Resources(**needs))


def snapshot(jobs, *sites: SiteView, **rest) -> Snapshot:
    return Snapshot(jobs=tuple(jobs), sites={view.name: view for view in sites}, **rest)


def plan(jobs, *sites: SiteView, **rest) -> Plan:
    return schedule(snapshot(jobs, *sites, **rest))


def started(found: Plan) -> list[str]:
    return [start.job_id for start in found.starts]


# ---- priority ------------------------------------------------------------------------------


def test_higher_priority_goes_first_and_then_age():
    jobs = [job("old", cpus=8), job("high", cpus=8, priority=5), job("higher", cpus=8, priority=9)]
    found = plan(jobs, site("a"))
    assert started(found) == ["higher"]
    assert list(found.reasons) == ["high", "old"]


def test_what_runs_is_never_stopped_for_another():
    found = plan([job("high", cpus=8, priority=100)], site("a", leases=(lease("x", cpus=1),)))
    assert found.starts == ()
    assert "1 used by job x" in found.reasons["high"]


def test_a_job_with_priority_that_waits_keeps_its_place_before_older_ones():
    busy = site("a", leases=(lease("x", cpus=6),))
    found = plan([job("old", cpus=2), job("high", cpus=4, priority=1)], busy)
    assert found.starts == ()
    assert "kept for job high" in found.reasons["old"]


# ---- quotas --------------------------------------------------------------------------------

TWO = Quotas(everybody=Quota(jobs=2))


def test_an_organisation_has_as_many_jobs_running_as_its_quota_says():
    jobs = [job(f"j{n}") for n in range(4)] + [job("other", org="org-b")]
    found = plan(jobs, site("a"), quotas=TWO)
    assert started(found) == ["j0", "j1", "other"]
    assert found.reasons["j2"] == "org-a has 0 of 2 jobs running (its quota) and more are ahead"


def test_what_runs_counts():
    found = plan([job("j1")], site("a"), quotas=TWO, usage={"org-a": Usage(jobs=2)})
    assert found.reasons == {"j1": "org-a has 2 of 2 jobs running (its quota)"}
    assert found.site_reasons == {"j1": {"a": "org-a has 2 of 2 jobs running (its quota)"}}


def test_a_quota_of_one_organisation_is_not_that_of_another():
    quotas = Quotas(everybody=Quota(jobs=5), named={"org-a": Quota(jobs=0)})
    found = plan([job("j1"), job("j2", org="org-b")], site("a"), quotas=quotas)
    assert started(found) == ["j2"]
    assert found.reasons["j1"] == "org-a has 0 of 0 jobs running (its quota)"


def test_what_an_organisation_s_own_quota_leaves_out_is_everybody_s():
    quotas = Quotas(everybody=Quota(jobs=1, gpus=4), named={"org-a": Quota(gpus=8)})
    assert quotas.of("org-a") == Quota(jobs=1, gpus=8)


def test_gpus_of_all_sites_count():
    views = [site(name, capacity=capacity(gpus=4)) for name in "ab"]
    quotas = Quotas(everybody=Quota(gpus=4))
    found = plan([job("j1", "ab", gpus=2), job("j2", "ab", gpus=1)], *views, quotas=quotas)
    assert started(found) == ["j1"]
    assert found.reasons["j2"] == (
        "org-a has 0 of 4 GPUs in use (its quota) and more are ahead; the job needs 2"
    )


def test_a_job_takes_as_many_sites_as_its_quota_has_gpus_for_the_required_ones_first():
    views = [site(name, capacity=capacity(gpus=1)) for name in "abc"]
    found = plan([job("j1", "abc", 1, required="c", gpus=1)], *views, quotas=Quotas(everybody=Quota(gpus=2)))
    assert found.starts == (Start(job_id="j1", sites=("a", "c")),)


def test_a_job_that_its_quota_can_never_let_start_holds_nobody_up():
    quotas = Quotas(everybody=Quota(gpus=1))
    found = plan([job("j1", gpus=2), job("j2", gpus=1)], site("a", capacity=capacity(gpus=2)), quotas=quotas)
    assert started(found) == ["j2"]
    assert found.reasons["j1"] == "needs 2 GPUs at 1 sites, and org-a may have 1 in all (its quota)"


def test_one_organisation_s_quota_holds_no_other_up():
    """org-a's job would fit, and waits for its quota alone: it keeps no place at the site."""
    found = plan(
        [job("j1", cpus=8), job("j2", cpus=8, org="org-b")],
        site("a"),
        quotas=TWO,
        usage={"org-a": Usage(jobs=2)},
    )
    assert started(found) == ["j2"]


def test_within_an_organisation_nobody_is_overtaken_for_ever():
    """j1 waits for 2 of 2 GPUs: j2 must not take the one that is free of the quota again and again."""
    found = plan(
        [job("j1", gpus=2), job("j2", gpus=1)],
        site("a", capacity=capacity(gpus=8)),
        quotas=Quotas(everybody=Quota(gpus=2)),
        usage={"org-a": Usage(jobs=1, gpus=1)},
    )
    assert found.starts == ()


# ---- what the site has measured --------------------------------------------------------------


def told(memory=8 * GIB, disk=50 * GIB, cpus=8, **held) -> Capacity:
    return capacity(left=Left(cpus=cpus, memory=memory, disk=disk, held=held))


def test_memory_that_others_use_is_not_there():
    found = plan([job("j1", memory=9 * GIB)], site("a", capacity=told()))
    assert found.site_reasons["j1"]["a"] == (
        "needs 9 GiB of memory, 8 GiB free of 16 GiB, 8 GiB used by others"
    )


def test_disk_is_what_is_free():
    found = plan([job("j1", disk=51 * GIB)], site("a", capacity=told()))
    assert found.site_reasons["j1"]["a"] == "needs 51 GiB of disk, 50 GiB free"
    assert started(plan([job("j1", disk=50 * GIB)], site("a", capacity=told()))) == ["j1"]


def test_a_lease_that_the_site_knows_is_not_counted_twice_and_one_it_does_not_is():
    known = told(memory=4 * GIB, x=Resources(memory=8 * GIB))
    assert find_room(known, [lease("x", memory=8 * GIB)]).memory == 4 * GIB
    assert find_room(known, [lease("x", memory=8 * GIB), lease("y", memory=GIB)]).memory == 3 * GIB
    assert whole_room(known).memory == 12 * GIB


def test_what_still_runs_at_the_site_takes_room_though_the_server_has_forgotten_it():
    view = site("a", capacity=told(cpus=2, gone=Resources(cpus=6)))
    found = plan([job("j1", cpus=4)], view)
    assert found.starts == ()
    assert find_room(replace(view.capacity, jobs=1), []).jobs == 0


def test_a_shared_gpu_fits_what_others_leave_of_it():
    shared = site("a", capacity=capacity(gpus=1, free=15 * GIB))
    assert started(plan([job("j1", gpus=1, gpu_memory=15 * GIB)], shared)) == ["j1"]
    found = plan([job("j1", gpus=1, gpu_memory=16 * GIB), job("j2", gpus=1)], shared)
    assert started(found) == ["j2"]  # j1 waits for no job of ours, and keeps no place
    assert found.site_reasons["j1"]["a"] == "needs 1 GPU of 16 GiB, has 0 (gpu 0 has 15 GiB free)"


def test_a_broken_gpu_is_no_gpu():
    cards = (GPURoom(uuid="x", memory=GIB, error="GPU is lost"),)
    found = plan([job("j1", gpus=1)], site("a", capacity=replace(capacity(), gpus=cards)))
    assert found.site_reasons["j1"]["a"] == "needs 1 GPU, has 0 (gpu 0: GPU is lost)"


@pytest.mark.parametrize(
    ("needs", "reason"),
    [
        ({"cpus": 5}, "needs 5 cpus, its policy gives a job at most 4"),
        ({"memory": 3 * GIB}, "needs 3 GiB of memory, its policy gives a job at most 2 GiB"),
        ({"gpus": 1}, "needs 1 GPU, its policy gives a job at most 0"),
    ],
)
def test_a_policy_s_ceilings_are_per_job(needs, reason):
    view = site("a", capacity=capacity(gpus=2, most=Most(cpus=4, memory=2 * GIB, gpus=0)))
    assert plan([job("j1", **needs)], view).site_reasons["j1"]["a"] == reason
    assert started(plan([job("j1", cpus=4), job("j2", cpus=4)], view)) == ["j1", "j2"]


def test_a_site_that_said_no_for_now_is_left_alone_until_something_changes():
    view = site("a", waits={"j1": "had no room when it was asked: needs 1 GPU"})
    found = plan([job("j1"), job("j2")], view)
    assert started(found) == ["j2"]
    assert found.site_reasons["j1"]["a"] == "had no room when it was asked: needs 1 GPU"


def test_a_site_that_could_be_used_says_that_it_waits_with_the_job():
    found = plan([job("j1", "ab")], site("a"), site("b", connected=False))
    assert found.site_reasons["j1"] == {"a": READY, "b": "not connected yet"}


def test_a_running_job_that_is_too_small_to_begin_keeps_its_place_and_says_so():
    busy = site("a", leases=(lease("x", cpus=6),))
    found = plan([job("j1", cpus=2)], busy, running=(job("run", cpus=4, short=True),))
    assert found.joins == found.starts == ()
    assert found.reasons["run"].startswith("a: needs 4 cpus, 2 free of 8")
    assert "kept for job run" in found.reasons["j1"]


# ---- a plan that goes on -----------------------------------------------------------------------


def some_job(chance: random.Random, number: int, names: str) -> JobView:
    gpus = chance.choice([0, 0, 0, 1, 2])
    sites = chance.sample(names, chance.randint(1, len(names)))
    return job(
        f"j{number}",
        sites,
        chance.randint(1, len(sites)),
        priority=chance.choice([0, 0, 0, -3, 7]),
        org=chance.choice(["org-a", "org-b"]),
        required=sites[:1] if chance.random() < 0.2 else (),
        cpus=chance.choice([1, 1, 2, 4, 10]),
        memory=chance.choice([1, 1, 2, 6, 20]) * GIB,
        disk=chance.choice([0, 0, 5, 30]) * GIB,
        gpus=gpus,
        gpu_memory=chance.choice([0, 8, 24]) * GIB if gpus else 0,
    )


def some_site(chance: random.Random, name: str) -> SiteView:
    cpus, memory = chance.choice([1, 4, 8, 16]), chance.choice([2, 8, 32]) * GIB
    held = {"old": Resources(cpus=1, memory=GIB)} if chance.random() < 0.3 else {}
    left = Left(
        cpus=cpus - len(held),
        memory=chance.randint(0, memory // GIB) * GIB,
        disk=chance.choice([0, 10, 100]) * GIB,
        held=held,
    )
    cards = tuple(
        GPURoom(
            uuid=f"{name}{n}",
            memory=24 * GIB,
            free=chance.choice([None, 0, 15 * GIB]),
            leased_to=("old",) if held and chance.random() < 0.3 else (),
            error="GPU is lost" if chance.random() < 0.1 else "",
        )
        for n in range(chance.choice([0, 0, 1, 3]))
    )
    return SiteView(
        name=name,
        connected=chance.random() < 0.9,
        closed="drained" if chance.random() < 0.1 else "",
        capacity=Capacity(
            cpus=cpus,
            memory=memory,
            gpus=cards,
            jobs=chance.choice([None, None, 1, 3]),
            left=left if chance.random() < 0.8 else None,
        ),
        waits={f"j{n}": "no room" for n in range(8) if chance.random() < 0.05},
    )


def some_snapshot(seed: int) -> Snapshot:
    chance = random.Random(seed)
    names = "abcde"[: chance.randint(1, 5)]
    gpus = chance.choice([None, 0, 2, 6])
    return Snapshot(
        jobs=tuple(some_job(chance, n, names) for n in range(chance.randint(0, 8))),
        sites={name: some_site(chance, name) for name in names},
        quotas=Quotas(everybody=Quota(jobs=chance.choice([None, 1, 3]), gpus=gpus)),
        usage={"org-a": Usage(jobs=1, gpus=chance.choice([0, 1]))},
    )


SEEDS = range(400)


def starts_at(found: Plan, shot: Snapshot, name: str) -> list[JobView]:
    by_id = {queued.id: queued for queued in shot.jobs}
    return [by_id[start.job_id] for start in found.starts if name in start.sites]


def test_law_nothing_is_overbooked_whatever_the_site_has_measured():
    count = 0
    for seed in SEEDS:
        shot = some_snapshot(seed)
        found = schedule(shot)
        count += len(found.starts)
        for name, view in shot.sites.items():
            needs = [queued.resources for queued in starts_at(found, shot, name)]
            has, left = view.capacity, view.capacity.left
            held = len(left.held) if left else 0
            free = [
                card for card in has.gpus if not card.leased_to and not card.error
            ]  # counted in the plainest way
            assert sum(need.cpus for need in needs) <= (left.cpus if left else has.cpus), seed
            assert sum(need.memory for need in needs) <= min(left.memory if left else has.memory, has.memory)
            assert not left or sum(need.disk for need in needs) <= left.disk, seed
            assert has.jobs is None or not needs or len(needs) + held <= has.jobs, seed
            wanted = sorted((n.gpu_memory for n in needs for _ in range(n.gpus)), reverse=True)
            sizes = sorted((card.usable for card in free), reverse=True)
            assert len(wanted) <= len(sizes), seed
            assert all(need <= card for need, card in zip(wanted, sizes, strict=False)), seed
    assert count > 200  # else the law holds of nothing


def test_law_every_quota_is_kept():
    for seed in SEEDS:
        shot = some_snapshot(seed)
        found = schedule(shot)
        by_id = {queued.id: queued for queued in shot.jobs}
        for org in ("org-a", "org-b"):
            quota, used = shot.quotas.of(org), shot.usage.get(org, Usage())
            mine = [start for start in found.starts if by_id[start.job_id].org == org]
            gpus = sum(by_id[start.job_id].resources.gpus * len(start.sites) for start in mine)
            assert quota.jobs is None or not mine or used.jobs + len(mine) <= quota.jobs, seed
            assert quota.gpus is None or not gpus or used.gpus + gpus <= quota.gpus, seed


def test_law_every_queued_job_starts_or_has_a_reason_and_one_for_each_site():
    for seed in SEEDS:
        shot = some_snapshot(seed)
        found = schedule(shot)
        assert sorted([*started(found), *found.reasons]) == sorted(queued.id for queued in shot.jobs)
        for queued in shot.jobs:
            if queued.id in found.reasons:
                assert found.reasons[queued.id]
                assert found.site_reasons[queued.id].keys() == set(queued.sites), seed


def test_law_nobody_is_started_past_one_of_higher_priority_who_asks_for_the_same():
    """Of two jobs that differ in nothing but priority and age, the one that is ahead starts first."""
    compared = 0
    for seed in SEEDS:
        shot = some_snapshot(seed)
        alike = replace(shot, jobs=tuple(
            replace(shot.jobs[0], id=f"j{n}", priority=queued.priority) for n, queued in enumerate(shot.jobs)
        ), sites={name: replace(view, waits={}) for name, view in shot.sites.items()})  # fmt: skip
        found = schedule(alike)
        order = sorted(alike.jobs, key=lambda queued: -queued.priority)
        assert started(found) == [queued.id for queued in order[: len(found.starts)]], seed
        compared += len(found.starts) > 0
    assert compared > 50


def test_law_the_same_snapshot_gives_the_same_plan():
    for seed in SEEDS:
        first, again = some_snapshot(seed), some_snapshot(seed)
        shuffled = replace(again, sites=dict(reversed(again.sites.items())))
        assert schedule(first) == schedule(again) == schedule(shuffled)


def test_law_a_job_that_is_added_behind_all_gets_what_the_whole_plan_would_give_it():
    added = 0
    for seed in SEEDS:
        shot = some_snapshot(seed)
        whole = schedule(shot)
        planning = Planning(replace(shot, jobs=shot.jobs[:1]))
        for number, queued in enumerate(shot.jobs[1:], start=1):
            if not planning.comes_last(queued):
                planning = Planning(replace(shot, jobs=shot.jobs[: number + 1]))
                continue
            found = planning.add([queued])
            added += 1
            part = schedule(replace(shot, jobs=shot.jobs[: number + 1]))
            mine = [start for start in part.starts if start.job_id == queued.id]
            assert list(found.starts) == mine, seed
            assert found.reasons.get(queued.id) == part.reasons.get(queued.id), seed
            assert found.site_reasons.get(queued.id) == part.site_reasons.get(queued.id), seed
        assert whole == schedule(shot)
    assert added > 300


def test_law_nobody_who_could_run_starves_behind_a_quota_or_a_stream_of_small_jobs():
    for seed in range(20):
        chance = random.Random(seed)
        queue, running = [job("big", cpus=8)], {"r0": (job("r0", cpus=4), 3)}
        for step in range(60):
            queue.append(job(f"s{step}", cpus=chance.randint(1, 4), org=chance.choice(["org-a", "org-b"])))
            running = {key: value for key, value in running.items() if value[1] > step}
            held = tuple(
                Lease(job_id=view.id, name=view.name, resources=view.resources)
                for view, _ in running.values()
            )
            used = {
                org: Usage(jobs=sum(view.org == org for view, _ in running.values()))
                for org in ("org-a", "org-b")
            }
            quotas = Quotas(everybody=Quota(jobs=2))
            found = plan(queue, site("a", leases=held), quotas=quotas, usage=used)
            for start in found.starts:
                view = next(queued for queued in queue if queued.id == start.job_id)
                running[view.id] = (view, step + chance.randint(1, 10))
                queue.remove(view)
            if "big" in running:
                break
        assert "big" in running, seed


# ---- how long it takes -------------------------------------------------------------------------


def thousand(chance: random.Random, names: tuple[str, ...], *, alike: bool) -> tuple[JobView, ...]:
    return tuple(
        job(f"j{n}", names, cpus=4)
        if alike
        else job(
            f"j{n}", chance.sample(names, 5), cpus=chance.randint(1, 8), memory=chance.randint(1, 16) * GIB
        )
        for n in range(1000)
    )


def quickest(act: Callable[[], object]) -> float:
    """Processor seconds of the quickest of several runs."""
    took = []
    for _ in range(7):
        began = time.process_time()
        act()
        took.append(time.process_time() - began)
    return min(took)


@pytest.mark.parametrize("alike", [True, False])
def test_ten_times_as_many_queued_jobs_cost_ten_times_as_much_and_not_a_hundred(alike):
    """A thousand over eight sites take 20 ms of a 2-core machine (50 allowed); the ratio holds anywhere."""
    names = tuple(f"s{n}" for n in range(8))
    views = {name: site(name, leases=(lease("x", cpus=6),)) for name in names}
    jobs = thousand(random.Random(1), names, alike=alike)
    assert len(schedule(Snapshot(jobs=jobs, sites=views)).reasons) == 1000
    few = quickest(lambda: schedule(Snapshot(jobs=jobs[:100], sites=views)))
    assert quickest(lambda: schedule(Snapshot(jobs=jobs, sites=views))) <= 20 * few


def test_the_thousand_and_first_costs_next_to_nothing():
    names = tuple(f"s{n}" for n in range(8))
    views = {name: site(name, leases=(lease("x", cpus=6),)) for name in names}
    shot = Snapshot(jobs=thousand(random.Random(1), names, alike=False), sites=views)
    planning, more = Planning(shot), iter(range(1000))
    assert planning.add([job("more", names, cpus=3)]).reasons
    one = quickest(lambda: [planning.add([job(f"more{next(more)}", names, cpus=3)]) for _ in range(10)]) / 10
    assert one <= quickest(lambda: schedule(shot)) / 20
