# SPDX-License-Identifier: Apache-2.0
"""The scheduler: what starts, what waits, and the words for it; laws on random snapshots."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from flprov.jobs import (
    Capacity,
    GPURoom,
    JobView,
    Lease,
    Plan,
    Resources,
    SiteView,
    Snapshot,
    Start,
    schedule,
)
from flprov.jobs.room import choose_gpus, find_room, show_size

GIB = 2**30
SINCE = datetime(2026, 1, 31, 12, 3, tzinfo=UTC)


def capacity(cpus=8, memory=16 * GIB, gpus=0, **rest) -> Capacity:
    cards = tuple(GPURoom(uuid=f"GPU-{n}", memory=24 * GIB) for n in range(gpus))
    return Capacity(cpus=cpus, memory=memory, gpus=cards, **rest)


def site(name: str, **changes) -> SiteView:
    return replace(SiteView(name=name, connected=True, since=SINCE, capacity=capacity()), **changes)


def job(key: str, sites="ab", quorum=None, required=(), **needs) -> JobView:
    return JobView(
        id=key,
        name=f"name-{key}",
        sites=tuple(sites),
        quorum=len(sites) if quorum is None else quorum,
        required=tuple(required),
        resources=Resources(**needs),
    )


def lease(key: str, **needs) -> Lease:
    return Lease(job_id=key, name=f"name-{key}", resources=Resources(**needs))


def plan(jobs, *sites: SiteView, **rest) -> Plan:
    return schedule(Snapshot(jobs=tuple(jobs), sites={view.name: view for view in sites}, **rest))


# ---- what starts ---------------------------------------------------------------------------


def test_job_starts_when_all_its_sites_are_there():
    found = plan([job("j1")], site("a"), site("b"), site("c"))
    assert found == Plan(starts=(Start(job_id="j1", sites=("a", "b")),))


def test_default_job_starts_on_the_smallest_machine():
    small = capacity(cpus=1, memory=GIB)
    assert plan([job("j1", "a")], site("a", capacity=small)).starts == (Start(job_id="j1", sites=("a",)),)


def test_quorum_starts_without_the_missing_site():
    found = plan([job("j1", "abc", quorum=2)], site("a"), site("b", connected=False), site("c"))
    assert found.starts == (Start(job_id="j1", sites=("a", "c")),)
    assert found.reasons == {}
    assert found.site_reasons == {"j1": {"b": "not connected since 2026-01-31 12:03 UTC"}}


def test_required_site_is_waited_for_though_the_quorum_stands():
    found = plan([job("j1", "abc", quorum=1, required="c")], site("a"), site("b"), site("c", connected=False))
    assert found.starts == ()
    assert found.reasons["j1"] == (
        "c: not connected since 2026-01-31 12:03 UTC; job needs 1 of 3 sites, c among them"
    )


def test_sites_share_until_they_are_full():
    jobs = [job(f"j{n}", "a", cpus=3) for n in range(4)]
    found = plan(jobs, site("a"))
    assert [start.job_id for start in found.starts] == ["j0", "j1"]
    assert set(found.reasons) == {"j2", "j3"}


def test_running_leases_count():
    found = plan([job("j1", "a", cpus=4)], site("a", leases=(lease("heart", cpus=6),)))
    assert found.starts == ()
    assert found.reasons["j1"] == (
        "a: needs 4 cpus, 2 free of 8: 6 used by job heart (name-heart); job needs 1 of 1 sites"
    )


def test_nothing_starts_while_the_server_holds():
    found = plan([job("j1")], site("a"), site("b"), hold="the server is draining")
    assert (found.starts, found.reasons) == ((), {"j1": "the server is draining"})
    assert found.site_reasons == {"j1": dict.fromkeys("ab", "the server is draining")}


def test_running_job_gets_the_site_it_lacks_before_the_queue():
    late = replace(job("run", "b", cpus=8), quorum=3)
    found = plan([job("j1", "b", cpus=8)], site("b"), running=(late,))
    assert found.joins == (Start(job_id="run", sites=("b",)),)
    assert found.starts == ()
    assert "8 used by job run" in found.reasons["j1"]


def test_running_job_that_lacks_a_lost_site_does_not_hold_the_queue():
    found = plan([job("j1", "a")], site("a"), site("b", connected=False), running=(job("run", "b"),))
    assert found.joins == ()
    assert found.starts == (Start(job_id="j1", sites=("a",)),)
    assert found.site_reasons["run"] == {"b": "not connected since 2026-01-31 12:03 UTC"}


# ---- words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("needs", "changes", "reason"),
    [
        ({}, {"connected": False, "since": None}, "not connected yet"),
        ({}, {"connected": False}, "not connected since 2026-01-31 12:03 UTC"),
        ({}, {"closed": "drained by ana"}, "drained by ana"),
        ({}, {"refused": {"j1": "policy allows nobody"}}, "refused: policy allows nobody"),
        ({}, {"connected": False, "refused": {"j1": "no"}}, "refused: no"),
        ({}, {"capacity": None}, "connected, has not yet told what it has"),
        ({"cpus": 16}, {}, "needs 16 cpus, has 8"),
        ({"memory": 20 * GIB}, {}, "needs 20 GiB of memory, has 16 GiB"),
        (
            {"gpus": 2},
            {"capacity": capacity(gpu_note="no NVIDIA driver")},
            "needs 2 GPUs, has 0 (no NVIDIA driver)",
        ),
        ({"gpus": 1}, {}, "needs 1 GPU, has 0"),
        ({"gpus": 3}, {"capacity": capacity(gpus=2)}, "needs 3 GPUs, has 2"),
        (
            {"gpus": 1, "gpu_memory": 40 * GIB},
            {"capacity": capacity(gpus=2)},
            "needs 1 GPU of 40 GiB, has 0",
        ),
        (
            {"gpus": 2},
            {"capacity": capacity(gpus=2), "leases": (lease("x", gpus=1),)},
            "needs 2 GPUs, 1 free of 2: 1 used by job x (name-x)",
        ),
        (
            {"memory": 10 * GIB},
            {"leases": (lease("x", memory=8 * GIB), lease("y", memory=GIB // 2))},
            "needs 10 GiB of memory, 7.5 GiB free of 16 GiB: "
            "8 GiB used by job x (name-x), 512 MiB used by job y (name-y)",
        ),
        (
            {},
            {"capacity": capacity(jobs=1), "leases": (lease("x"),)},
            "takes 1 job at once: 1 used by job x (name-x)",
        ),
        ({}, {"capacity": capacity(jobs=0)}, "takes 0 jobs at once"),
        (
            {"cpus": 5},
            {"leases": tuple(lease(f"x{n}", cpus=1) for n in range(5))},
            "needs 5 cpus, 3 free of 8: 1 used by job x0 (name-x0), 1 used by job x1 (name-x1), "
            "1 used by job x2 (name-x2), and more",
        ),
    ],
)
def test_each_site_says_in_words_why_not(needs, changes, reason):
    found = plan([job("j1", "a", **needs)], site("a", **changes))
    assert found.starts == ()
    assert found.site_reasons == {"j1": {"a": reason}}
    assert found.reasons == {"j1": f"a: {reason}; job needs 1 of 1 sites"}


def test_site_that_is_not_enrolled_is_named():
    assert plan([job("j1", "z")]).reasons["j1"] == "z: not enrolled in this project; job needs 1 of 1 sites"


def test_what_ends_by_itself_is_told_last():
    """`busy` passes; a site that is away is what somebody can do something about."""
    found = plan(
        [job("j1", "ab", cpus=4)], site("a", leases=(lease("x", cpus=8),)), site("b", connected=False)
    )
    assert found.reasons["j1"].startswith("b: not connected")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (5, "5 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (2**50, "1024 TiB"),
    ],
)
def test_sizes_for_people(size, text):
    assert show_size(size) == text


# ---- the queue -----------------------------------------------------------------------------


def test_job_that_waits_for_room_keeps_its_place():
    """Rule 4: j2 would fit now, but would take what j1 is waiting for."""
    busy = site("a", leases=(lease("x", cpus=6),))
    found = plan([job("j1", "a", cpus=4), job("j2", "a", cpus=2)], busy)
    assert found.starts == ()
    assert "4 kept for job j1 (name-j1), which is ahead" in found.reasons["j2"]


def test_later_job_starts_on_what_an_earlier_one_leaves_over():
    """j1 waits for the GPU and 2 of the 6 free cpus; 4 are nobody's."""
    busy = site("a", capacity=capacity(cpus=8, gpus=1), leases=(lease("x", cpus=2, gpus=1),))
    first = job("j1", "a", cpus=2, gpus=1)
    assert plan([first, job("j2", "a", cpus=4)], busy).starts == (Start(job_id="j2", sites=("a",)),)
    assert plan([first, job("j2", "a", cpus=5)], busy).starts == ()
    assert plan([job("j2", "a", cpus=5)], busy).starts == (Start(job_id="j2", sites=("a",)),)


def test_job_that_waits_for_a_site_holds_nobody_up():
    found = plan([job("j1", "ab", cpus=8), job("j2", "a", cpus=8)], site("a"), site("b", connected=False))
    assert found.starts == (Start(job_id="j2", sites=("a",)),)


def test_job_that_can_never_fit_holds_nobody_up():
    found = plan([job("j1", "a", cpus=64), job("j2", "a", cpus=8)], site("a"))
    assert found.starts == (Start(job_id="j2", sites=("a",)),)
    assert found.reasons["j1"].startswith("a: needs 64 cpus, has 8")


def test_place_is_kept_also_at_the_sites_that_are_free():
    """Else j2 takes a, x ends at b, and j1 waits for a: overtaken for ever by turns."""
    found = plan(
        [job("j1", "ab", cpus=8), job("j2", "a", cpus=8)], site("a"), site("b", leases=(lease("x", cpus=8),))
    )
    assert found.starts == ()


# ---- GPUs ----------------------------------------------------------------------------------


def test_smallest_gpu_that_fits_is_taken():
    cards = (
        GPURoom(uuid="big", memory=80 * GIB),
        GPURoom(uuid="b", memory=24 * GIB),
        GPURoom(uuid="a", memory=24 * GIB),
        GPURoom(uuid="tiny", memory=8 * GIB),
    )
    chosen = choose_gpus(cards, Resources(gpus=2, gpu_memory=16 * GIB), 2)
    assert [gpu.uuid for gpu in chosen] == ["a", "b"]


def test_large_gpus_stay_for_those_who_ask():
    cards = (GPURoom(uuid="big", memory=80 * GIB), GPURoom(uuid="small", memory=8 * GIB))
    both = site("a", capacity=Capacity(cpus=8, memory=16 * GIB, gpus=cards))
    found = plan([job("j1", "a", gpus=1), job("j2", "a", gpus=1, gpu_memory=40 * GIB)], both)
    assert [start.job_id for start in found.starts] == ["j1", "j2"]


def test_gpu_is_counted_once_whether_the_site_has_told_or_not():
    cards = (GPURoom(uuid="a", memory=GIB, leased_to=("x",)), GPURoom(uuid="b", memory=GIB))
    told = Capacity(cpus=8, memory=16 * GIB, gpus=cards)
    untold = replace(told, gpus=tuple(replace(card, leased_to=()) for card in cards))
    for view in (told, untold):
        assert len(find_room(view, [lease("x", gpus=1)]).gpus) == 1
    assert find_room(told, [lease("x", gpus=1), lease("y", gpus=1)]).gpus == ()
    assert [gpu.uuid for gpu in find_room(told, []).gpus] == ["b"]  # held, though no lease is known


def test_gpu_held_by_a_stopping_job_is_waited_for():
    card = GPURoom(uuid="a", memory=GIB, leased_to=("gone",))
    view = site("a", capacity=Capacity(cpus=8, memory=16 * GIB, gpus=(card,)))
    found = plan([job("j1", "a", gpus=1), job("j2", "a", gpus=1)], view)
    assert found.starts == ()
    assert found.reasons["j1"].startswith("a: needs 1 GPU, 0 free of 1")


# ---- laws, on random snapshots -------------------------------------------------------------


def some_resources(chance: random.Random) -> Resources:
    gpus = chance.choice([0, 0, 0, 1, 2])
    return Resources(
        cpus=chance.choice([1, 1, 2, 4, 10]),
        memory=chance.choice([1, 1, 2, 6, 20]) * GIB,
        gpus=gpus,
        gpu_memory=chance.choice([0, 8 * GIB, 24 * GIB]) if gpus else 0,
    )


def some_site(chance: random.Random, name: str) -> SiteView:
    cards = tuple(
        GPURoom(uuid=f"{name}{n}", memory=chance.choice([8, 24]) * GIB)
        for n in range(chance.choice([0, 0, 1, 3]))
    )
    view = SiteView(
        name=name,
        connected=chance.random() < 0.85,
        since=SINCE,
        closed="drained" if chance.random() < 0.1 else "",
        capacity=None
        if chance.random() < 0.05
        else Capacity(
            cpus=chance.choice([1, 4, 8, 16]),
            memory=chance.choice([2, 8, 32]) * GIB,
            gpus=cards,
            jobs=chance.choice([None, None, 1, 3]),
        ),
        refused={f"j{n}": "no" for n in range(8) if chance.random() < 0.05},
    )
    running = Lease(job_id="old", name="old", resources=some_resources(chance))
    fits = view.capacity is not None and not_over(view, [running])
    return replace(view, leases=(running,)) if fits and chance.random() < 0.6 else view


def some_snapshot(seed: int) -> Snapshot:
    chance = random.Random(seed)
    names = "abcde"[: chance.randint(1, 5)]
    jobs = []
    for n in range(chance.randint(0, 8)):
        sites = chance.sample(names, chance.randint(1, len(names)))
        jobs.append(
            JobView(
                id=f"j{n}",
                name="n",
                sites=tuple(sites),
                quorum=chance.randint(1, len(sites)),
                required=tuple(sites[:1]) if chance.random() < 0.2 else (),
                resources=some_resources(chance),
            )
        )
    return Snapshot(jobs=tuple(jobs), sites={name: some_site(chance, name) for name in names})


def not_over(view: SiteView, leases: list[Lease]) -> bool:
    """Whether these leases fit the site together; counted here in the plainest way."""
    has = view.capacity
    assert has is not None
    needs = [held.resources for held in leases]
    gpu_needs = sorted((need.gpu_memory for need in needs for _ in range(need.gpus)), reverse=True)
    cards = sorted((gpu.memory for gpu in has.gpus), reverse=True)
    return (
        sum(need.cpus for need in needs) <= has.cpus
        and sum(need.memory for need in needs) <= has.memory
        and len(gpu_needs) <= len(cards)
        and all(need <= card for need, card in zip(gpu_needs, cards, strict=False))
        and (has.jobs is None or len(leases) <= has.jobs)
    )


def leases_after(snapshot: Snapshot, found: Plan) -> dict[str, list[Lease]]:
    leases = {name: list(view.leases) for name, view in snapshot.sites.items()}
    by_id = {queued.id: queued for queued in snapshot.jobs}
    for start in found.starts:
        for name in start.sites:
            queued = by_id[start.job_id]
            leases[name].append(Lease(job_id=queued.id, name=queued.name, resources=queued.resources))
    return leases


SEEDS = range(400)


def test_law_no_site_is_ever_given_more_than_it_has():
    started = 0
    for seed in SEEDS:
        snapshot = some_snapshot(seed)
        found = schedule(snapshot)
        started += len(found.starts)
        for name, leases in leases_after(snapshot, found).items():
            view = snapshot.sites[name]
            assert view.capacity is None or not_over(view, leases), (seed, name)
    assert started > 200  # else the law holds of nothing


def test_law_every_queued_job_starts_or_has_a_reason():
    for seed in SEEDS:
        snapshot = some_snapshot(seed)
        found = schedule(snapshot)
        started = [start.job_id for start in found.starts]
        assert sorted([*started, *found.reasons]) == sorted(queued.id for queued in snapshot.jobs)
        assert all(found.reasons.values())


def test_law_what_starts_has_its_quorum_on_sites_that_will_have_it():
    for seed in SEEDS:
        snapshot = some_snapshot(seed)
        by_id = {queued.id: queued for queued in snapshot.jobs}
        for start in schedule(snapshot).starts:
            queued = by_id[start.job_id]
            assert len(start.sites) >= queued.quorum
            assert set(queued.required) <= set(start.sites) <= set(queued.sites)
            for name in start.sites:
                view = snapshot.sites[name]
                assert view.connected
                assert not view.closed
                assert queued.id not in view.refused
                assert view.capacity is not None


def test_law_same_snapshot_same_plan_and_starts_in_queue_order():
    for seed in SEEDS:
        first, again = some_snapshot(seed), some_snapshot(seed)
        shuffled = replace(again, sites=dict(reversed(again.sites.items())))
        assert schedule(first) == schedule(again) == schedule(shuffled)
        order = [queued.id for queued in first.jobs]
        started = [order.index(start.job_id) for start in schedule(first).starts]
        assert started == sorted(started)


def test_law_jobs_behind_change_nothing_for_those_ahead():
    for seed in SEEDS:
        snapshot = some_snapshot(seed)
        whole = schedule(snapshot)
        for length in range(len(snapshot.jobs)):
            ahead = replace(snapshot, jobs=snapshot.jobs[:length])
            ids = {queued.id for queued in ahead.jobs}
            part = schedule(ahead)
            assert part.starts == tuple(start for start in whole.starts if start.job_id in ids)
            assert part.reasons == {key: text for key, text in whole.reasons.items() if key in ids}


def test_law_starting_a_plan_leaves_nothing_more_to_start():
    """The plan is complete: carried out, the same rules find nothing else to do."""
    for seed in SEEDS:
        snapshot = some_snapshot(seed)
        found = schedule(snapshot)
        leases = leases_after(snapshot, found)
        started = {start.job_id for start in found.starts}
        after = Snapshot(
            jobs=tuple(queued for queued in snapshot.jobs if queued.id not in started),
            sites={name: replace(view, leases=tuple(leases[name])) for name, view in snapshot.sites.items()},
        )
        assert schedule(after).starts == (), seed


def test_law_nobody_who_could_run_starves():
    """Jobs of random length stream in for ever; the one that needs a whole site still gets its turn."""
    for seed in range(20):
        chance = random.Random(seed)
        queue = [job("big", "ab", cpus=8)]
        running: dict[str, tuple[JobView, int]] = {}
        views = {"a": site("a"), "b": site("b")}
        for name, length in (("r0", 5), ("r1", 9)):
            running[name] = (job(name, "a" if name == "r0" else "b", cpus=4), length)
        for step in range(40):
            queue.append(job(f"s{step}", chance.choice(["a", "b", "ab"]), cpus=chance.randint(1, 4)))
            running = {key: (view, end) for key, (view, end) in running.items() if end > step}
            held = {
                name: tuple(
                    Lease(job_id=view.id, name=view.name, resources=view.resources)
                    for view, _ in running.values()
                    if name in view.sites
                )
                for name in views
            }
            now = {name: replace(view, leases=held[name]) for name, view in views.items()}
            for start in schedule(Snapshot(jobs=tuple(queue), sites=now)).starts:
                view = next(queued for queued in queue if queued.id == start.job_id)
                running[view.id] = (view, step + chance.randint(1, 10))
                queue.remove(view)
            if "big" in running:
                break
        assert "big" in running, seed
        assert step == 9


def test_a_long_queue_is_planned_quickly():
    views = [replace(site("x"), name=f"s{n}", leases=(lease("x", cpus=6),)) for n in range(50)]
    jobs = [replace(job(f"j{n}", cpus=4), sites=tuple(view.name for view in views)) for n in range(100)]
    assert len(plan(jobs, *views).reasons) == 100
