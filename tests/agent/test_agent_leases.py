# SPDX-License-Identifier: Apache-2.0
"""Leases: what a job gets of this machine, who stands in the way, and that a killed agent forgets none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
from agent_rig import make_gpu

from flprov.agent.leases import HeldLease, Leases
from flprov.errors import LocalError, NoRoom
from flprov.jobs import Resources
from flprov.store import MemoryStore
from flprov.testing.clock import FakeClock
from flprov.wire.documents import CPU, Ceilings, GPUProcess, Held, SiteRoom, Space, Vitals

GIB = 2**30


class Machine:
    """8 cpus, 16 GiB of which 12 are available, 100 GiB of disk of which 40 are free; and these GPUs."""

    def __init__(self) -> None:
        self.gpus: tuple = ()
        self.note = "no NVIDIA driver on this machine"
        self.available = 12 * GIB
        self.disk = 40 * GIB
        self.used: dict[str, int] = {}  # bytes that the processes of each job hold
        self.ceilings = Ceilings()
        self.read = 0

    def measure(self, held: Mapping[str, HeldLease]) -> Vitals:
        self.read += 1
        promised = sum(max(0, lease.memory - self.used.get(key, 0)) for key, lease in held.items())
        mine = {uuid: (key,) for key, lease in held.items() for uuid in lease.gpus}
        return Vitals(
            cpu=CPU(count=8, load=0, percent=0),
            memory=Space(total=16 * GIB, available=self.available),
            disk=Space(total=100 * GIB, available=self.disk),
            gpus=tuple(replace(gpu, leased_to=mine.get(gpu.uuid, ())) for gpu in self.gpus),
            gpu_note=self.note,
            room=SiteRoom(
                cpus=8 - sum(lease.cpus for lease in held.values()),
                memory=max(0, self.available - promised),
                disk=self.disk - sum(lease.disk for lease in held.values()),
                held=tuple(
                    Held(job_id=key, gpus=v.gpus, cpus=v.cpus, memory=v.memory, disk=v.disk)
                    for key, v in held.items()
                ),
                ceilings=self.ceilings,
            ),
        )


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture
def store():
    return MemoryStore(clock=FakeClock())


@pytest.fixture
def leases(store, machine):
    return Leases(store, FakeClock(), machine.measure)


def used(index: int, *, total: int = 24, by: int = 4711, gib: int = 9):
    gpu = make_gpu(index, total=total * GIB, used=gib * GIB, processes=(by,))
    return replace(gpu, used_by=(GPUProcess(pid=by, memory=gib * GIB),))


def need(**changes) -> Resources:
    return Resources(**{"memory": GIB} | changes)


# ---- GPUs ------------------------------------------------------------------------------------


async def test_a_job_that_asks_for_none_gets_none(leases, machine):
    machine.gpus = (make_gpu(0),)
    assert (await leases.lease("j1", need())).gpus == ()


async def test_the_smallest_that_is_large_enough_is_taken(leases, machine):
    machine.gpus = (make_gpu(0, total=80 * GIB), make_gpu(1, total=8 * GIB), make_gpu(2, total=24 * GIB))
    assert (await leases.lease("j1", need(gpus=1, gpu_memory=16 * GIB))).gpus == ("GPU-2",)


@pytest.mark.parametrize(("gib", "fits"), [(15, True), (16, False)])
async def test_what_others_use_of_a_gpu_does_not_count(leases, machine, gib, fits):
    machine.gpus = (used(0),)
    missing = await leases.shortage(need(gpus=1, gpu_memory=gib * GIB))
    assert (missing == "") is fits
    if not fits:
        assert missing == ("needs 1 GPU of 16 GiB, has 0 (gpu 0 has 15 GiB free: 9 GiB used by pid 4711)")


async def test_a_gpu_with_room_for_two_never_goes_to_two(leases, machine):
    machine.gpus = (make_gpu(0, total=80 * GIB),)
    await leases.lease("j1", need(gpus=1, gpu_memory=GIB), name="heart")
    with pytest.raises(NoRoom, match=r"needs 1 GPU, 0 free of 1: 1 used by job j1 \(heart\)"):
        await leases.lease("j2", need(gpus=1))


async def test_what_our_own_job_holds_is_no_reason_against_it(leases, machine):
    """Its processes fill the GPU; it starts again, and has its lease."""
    machine.gpus = (make_gpu(0),)
    first = await leases.lease("j1", need(gpus=1, gpu_memory=8 * GIB))
    machine.gpus = (
        replace(make_gpu(0, used=8 * GIB), used_by=(GPUProcess(pid=1, memory=8 * GIB, ours=True),)),
    )
    assert await leases.lease("j1", need(gpus=1, gpu_memory=8 * GIB)) == first


@pytest.mark.parametrize("note", ["", "no NVIDIA driver on this machine"])
async def test_a_site_without_gpus_says_why(leases, machine, note):
    machine.note = note
    said = await leases.shortage(need(gpus=1))
    assert said == "needs 1 GPU, has 0" + (f" ({note})" if note else "")


async def test_a_gpu_that_fell_off_is_not_leased_and_is_named(leases, machine):
    machine.gpus = (replace(make_gpu(0), error="GPU is lost"),)
    assert await leases.shortage(need(gpus=1)) == "needs 1 GPU, has 0 (gpu 0: GPU is lost)"


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ((), "gpu GPU-0, which job j1 has, is not there any more"),
        (
            (replace(make_gpu(0), error="GPU is lost"),),
            "gpu GPU-0, which job j1 has, cannot be used: GPU is lost",
        ),
    ],
)
async def test_a_job_does_not_start_anew_on_a_gpu_that_was_lost(leases, machine, left, said):
    machine.gpus = (make_gpu(0),)
    await leases.lease("j1", need(gpus=1))
    machine.gpus = left
    with pytest.raises(NoRoom) as caught:
        await leases.lease("j1", need(gpus=1))
    assert str(caught.value) == said


# ---- the rest of the machine -----------------------------------------------------------------


async def test_memory_is_what_is_available_not_what_there_is(leases):
    assert await leases.shortage(need(memory=12 * GIB)) == ""
    assert await leases.shortage(need(memory=13 * GIB)) == (
        "needs 13 GiB of memory, 12 GiB free of 16 GiB, 4 GiB used by others"
    )


async def test_what_a_job_was_promised_and_does_not_use_yet_is_not_given_twice(leases, machine):
    await leases.lease("j1", need(memory=8 * GIB), name="heart")
    assert "4 GiB free" in await leases.shortage(need(memory=5 * GIB))
    machine.used, machine.available = {"j1": 8 * GIB}, 4 * GIB  # now it uses it: counted once
    assert await leases.shortage(need(memory=4 * GIB)) == ""
    machine.used, machine.available = {"j1": 10 * GIB}, 2 * GIB  # it uses more than it asked for
    assert "2 GiB free" in await leases.shortage(need(memory=4 * GIB))


async def test_cpus_are_counted(leases):
    await leases.lease("j1", need(cpus=6), name="heart")
    assert await leases.shortage(need(cpus=3)) == "needs 3 cpus, 2 free of 8: 6 used by job j1 (heart)"


async def test_disk_is_for_the_job_its_app_and_two_models(leases):
    assert await leases.shortage(need(disk=20 * GIB), app_size=GIB, model_size=9 * GIB) == ""
    said = await leases.shortage(need(disk=20 * GIB), app_size=GIB, model_size=10 * GIB)
    assert said == "needs 42 GiB of disk, 40 GiB free"


async def test_as_many_jobs_as_the_policy_lets_run_at_once(leases, machine):
    machine.ceilings = Ceilings(jobs=1)
    await leases.lease("j1", need())
    assert (await leases.shortage(need())).startswith("takes 1 job at once")


# ---- together, and through a restart ---------------------------------------------------------


async def test_two_at_once_do_not_both_get_what_is_there_once(leases):
    found = await asyncio.gather(
        leases.lease("j1", need(cpus=5)), leases.lease("j2", need(cpus=5)), return_exceptions=True
    )
    assert [type(one) for one in found] == [HeldLease, NoRoom]


async def test_a_killed_agent_finds_every_lease_again_as_it_was(leases, store, machine):
    machine.gpus = (make_gpu(0), make_gpu(1))
    held = {
        "j1": await leases.lease("j1", need(gpus=1, gpu_memory=GIB, cpus=2, disk=GIB), name="heart"),
        "j2": await leases.lease("j2", need(cpus=3), app_size=5),
    }
    again = Leases(store, FakeClock(), machine.measure)
    again.load()
    assert again.all == held
    assert again.held("j1").gpus == ("GPU-0",)
    assert await again.shortage(need(cpus=4)) != ""


async def test_what_is_released_is_said_and_free(leases, store, machine):
    machine.gpus = (make_gpu(0),)
    await leases.lease("j1", need(gpus=1, cpus=2, disk=GIB))
    assert await leases.release("j1") == ("gpu GPU-0", "2 cpus", "1 GiB of memory", "1 GiB of disk")
    assert await leases.release("j1") == ()
    assert store.load("lease") == {}
    assert (await leases.lease("j2", need(gpus=1))).gpus == ("GPU-0",)


async def test_a_lease_that_cannot_be_written_down_is_none(leases, store):
    await store.close()
    with pytest.raises(LocalError):
        await leases.lease("j1", need())
    assert leases.all == {}


async def test_every_change_is_told_at_once(store, machine):
    told = []
    leases = Leases(store, FakeClock(), machine.measure, on_change=lambda: told.append(len(leases.all)))
    await leases.lease("j1", need())
    await leases.lease("j1", need())
    await leases.release("j1")
    await leases.release("j1")
    assert told == [1, 0]
