# SPDX-License-Identifier: Apache-2.0
"""How much room a site has beside the jobs that lease something there. Bookkeeping, no measuring.

A site's room is what it has in all minus what its jobs asked for; what they really use is the
operating system's business (a job that asks for one cpu and keeps eight busy is the site's policy
to limit, not the scheduler's to guess).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flprov.jobs.job import Resources


@dataclass(frozen=True, kw_only=True)
class GPURoom:
    """One GPU of a site."""

    uuid: str
    memory: int  # bytes in all
    leased_to: tuple[str, ...] = ()  # job ids, as the site's heartbeat says


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a site has in all for jobs: its machine, or the ceilings of its policy if they are lower."""

    cpus: int
    memory: int  # bytes
    gpus: tuple[GPURoom, ...] = ()
    gpu_note: str = ""  # why there are none: "no NVIDIA driver"
    jobs: int | None = None  # how many may run at once; None: no limit


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What one job holds at one site."""

    job_id: str
    name: str
    resources: Resources
    ahead: bool = False  # not running: a queued job that keeps its place


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is left; never negative."""

    cpus: int
    memory: int
    gpus: tuple[GPURoom, ...]
    jobs: int | None


def whole_room(capacity: Capacity) -> Room:
    """What a site has when nobody is there."""
    return Room(cpus=capacity.cpus, memory=capacity.memory, gpus=capacity.gpus, jobs=capacity.jobs)


def find_room(capacity: Capacity, leases: Sequence[Lease]) -> Room:
    """What `leases` leave of a site's capacity."""
    return Room(
        cpus=max(0, capacity.cpus - sum(lease.resources.cpus for lease in leases)),
        memory=max(0, capacity.memory - sum(lease.resources.memory for lease in leases)),
        gpus=_free_gpus(capacity, leases),
        jobs=None if capacity.jobs is None else max(0, capacity.jobs - len(leases)),
    )


def _free_gpus(capacity: Capacity, leases: Sequence[Lease]) -> tuple[GPURoom, ...]:
    """GPUs that nobody holds: neither by the site's word nor by a lease that it has not yet told of."""
    free = [gpu for gpu in capacity.gpus if not gpu.leased_to]
    for lease in leases:
        told = sum(lease.job_id in gpu.leased_to for gpu in capacity.gpus)
        for gpu in choose_gpus(free, lease.resources, lease.resources.gpus - told):
            free.remove(gpu)
    return tuple(free)


def choose_gpus(free: Sequence[GPURoom], resources: Resources, count: int) -> tuple[GPURoom, ...]:
    """Up to `count` of the free GPUs that fit, the smallest first: the large ones stay for those who ask."""
    fitting = sorted(
        (gpu for gpu in free if gpu.memory >= resources.gpu_memory), key=lambda gpu: (gpu.memory, gpu.uuid)
    )
    return tuple(fitting[: max(0, count)])


def find_shortage(need: Resources, room: Room, capacity: Capacity, leases: Sequence[Lease]) -> str:
    """What is missing in `room` for `need`, in words; empty when it fits."""
    if room.jobs == 0:
        return f"takes {_count(capacity.jobs or 0, 'job')} at once{_used(leases, lambda _: 1, str)}"
    fitting = len(choose_gpus(room.gpus, need, len(room.gpus)))
    if need.gpus > fitting:
        return _gpu_shortage(need, fitting, capacity, leases)
    if need.cpus > room.cpus:
        wanted = f"needs {_count(need.cpus, 'cpu')}"
        if need.cpus > capacity.cpus:
            return f"{wanted}, has {capacity.cpus}"
        return f"{wanted}, {room.cpus} free of {capacity.cpus}{_used(leases, lambda held: held.cpus, str)}"
    if need.memory > room.memory:
        wanted, has = f"needs {show_size(need.memory)} of memory", show_size(capacity.memory)
        if need.memory > capacity.memory:
            return f"{wanted}, has {has}"
        used = _used(leases, lambda held: held.memory, show_size)
        return f"{wanted}, {show_size(room.memory)} free of {has}{used}"
    return ""


def _gpu_shortage(need: Resources, fitting: int, capacity: Capacity, leases: Sequence[Lease]) -> str:
    wanted = _count(need.gpus, "GPU") + (f" of {show_size(need.gpu_memory)}" if need.gpu_memory else "")
    if not capacity.gpus:
        return f"needs {wanted}, has 0" + (f" ({capacity.gpu_note})" if capacity.gpu_note else "")
    has = len(choose_gpus(capacity.gpus, need, len(capacity.gpus)))
    if has < need.gpus:
        return f"needs {wanted}, has {has}"
    return f"needs {wanted}, {fitting} free of {has}{_used(leases, lambda held: held.gpus, str)}"


def _used(leases: Sequence[Lease], amount: Callable[[Resources], int], show: Callable[[int], str]) -> str:
    """`: 6 used by job 3f2a... (heart), 2 kept for job 81bc... (lung), which is ahead`."""
    holders = [(amount(lease.resources), lease) for lease in leases if amount(lease.resources)]
    parts = [
        f"{show(count)} kept for job {lease.job_id} ({lease.name}), which is ahead"
        if lease.ahead
        else f"{show(count)} used by job {lease.job_id} ({lease.name})"
        for count, lease in holders[:3]
    ]
    more = [f"{len(holders) - 3} more jobs"] if len(holders) > 3 else []
    return f": {', '.join(parts + more)}" if parts else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def show_size(size: int) -> str:
    """`512 MiB`, `1.5 GiB`: for people."""
    power = min(4, max(0, (size.bit_length() - 1) // 10))
    value = f"{size / 1024**power:.1f}".removesuffix(".0")
    return f"{value} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
