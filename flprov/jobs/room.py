# SPDX-License-Identifier: Apache-2.0
"""How much room a site has beside the jobs that hold something there, and in words what is missing.

The site's agent decides by these rules about its own machine, and the server by the same about what the
site has told, so that the two agree unless something has changed on the way.

Processors are counted: what the jobs asked for. Memory and disk are counted and measured: whichever leaves
less. Of a GPU the free memory counts that other users' processes leave; it never goes to two jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flprov.jobs.job import Resources

_SHOWN = 3  # holders of something that are named; the rest are "more"


@dataclass(frozen=True, kw_only=True)
class GPURoom:
    """One GPU of a site."""

    uuid: str
    memory: int  # bytes in all
    leased_to: tuple[str, ...] = ()  # job ids, as the site's heartbeat says
    free: int | None = None  # bytes that others' processes leave; None: nobody else is there
    index: int = 0
    others: str = ""  # "9 GiB used by pid 4711"
    error: str = ""  # why it cannot be used

    @property
    def usable(self) -> int:
        """Bytes for the one job that has it."""
        return self.memory if self.free is None else self.free


@dataclass(frozen=True, kw_only=True)
class Most:
    """The most that one job may ask of a site, by its policy; None is no ceiling."""

    gpus: int | None = None
    cpus: int | None = None
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class Left:
    """What a site has measured and counted at some moment."""

    cpus: int
    memory: int
    disk: int
    held: Mapping[str, Resources] = field(default_factory=dict)  # job id -> what it held then


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What a site has in all for jobs."""

    cpus: int
    memory: int  # bytes
    gpus: tuple[GPURoom, ...] = ()
    gpu_note: str = ""  # why there are none: "no NVIDIA driver"
    jobs: int | None = None  # how many may run at once; None: no limit
    most: Most = Most()
    left: Left | None = None  # None: the site only says what it has


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What one job holds at one site."""

    job_id: str
    name: str
    resources: Resources
    ahead: bool = False  # not running: a queued job that keeps its place


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is left; never negative. None: nobody knows, so nobody objects."""

    cpus: int
    memory: int
    gpus: tuple[GPURoom, ...]
    jobs: int | None
    disk: int | None = None

    @property
    def full(self) -> bool:
        """Whether no job fits any more, however small."""
        return self.jobs == 0 or self.cpus == 0 or self.memory == 0

    def less(self, lease: Lease, told: int = 0) -> Room:
        """What is left when this job has its part, `told` of whose GPUs are taken already."""
        need = lease.resources
        chosen = choose_gpus(self.gpus, need, need.gpus - told)
        return Room(
            cpus=max(0, self.cpus - need.cpus),
            memory=max(0, self.memory - need.memory),
            gpus=tuple(gpu for gpu in self.gpus if gpu not in chosen) if chosen else self.gpus,
            jobs=None if self.jobs is None else max(0, self.jobs - 1),
            disk=None if self.disk is None else max(0, self.disk - need.disk),
        )


def whole_room(capacity: Capacity) -> Room:
    """What a site has when no job is there; other users' processes stay."""
    left, memory, disk = capacity.left, capacity.memory, None
    if left is not None:
        memory = min(memory, left.memory + sum(held.memory for held in left.held.values()))
        disk = left.disk + sum(held.disk for held in left.held.values())
    gpus = tuple(gpu for gpu in capacity.gpus if not gpu.error)
    return Room(cpus=capacity.cpus, memory=memory, gpus=gpus, jobs=capacity.jobs, disk=disk)


def find_room(capacity: Capacity, leases: Sequence[Lease]) -> Room:
    """What `leases` leave of a site's capacity, and no more than the site has measured."""
    room = Room(
        cpus=capacity.cpus,
        memory=capacity.memory,
        gpus=tuple(gpu for gpu in capacity.gpus if not gpu.leased_to and not gpu.error),
        jobs=capacity.jobs,
        disk=None if capacity.left is None else capacity.left.disk,
    )
    for lease in leases:
        room = room.less(lease, sum(lease.job_id in gpu.leased_to for gpu in capacity.gpus))
    return room if capacity.left is None else _measured(room, capacity.left, leases)


def _measured(room: Room, left: Left, leases: Sequence[Lease]) -> Room:
    """A lease that the site knew of when it measured is in its figures already."""
    fresh = [lease.resources for lease in leases if lease.job_id not in left.held]
    gone = len(left.held.keys() - {lease.job_id for lease in leases})  # about to end there, and not yet gone
    return Room(
        cpus=max(0, min(room.cpus, left.cpus - sum(need.cpus for need in fresh))),
        memory=max(0, min(room.memory, left.memory - sum(need.memory for need in fresh))),
        gpus=room.gpus,
        jobs=None if room.jobs is None else max(0, room.jobs - gone),
        disk=max(0, left.disk - sum(need.disk for need in fresh)),
    )


def choose_gpus(free: Sequence[GPURoom], resources: Resources, count: int) -> tuple[GPURoom, ...]:
    """Up to `count` of the free GPUs that fit, the smallest first: the large ones stay for those who ask."""
    if count <= 0:
        return ()
    fitting = (gpu for gpu in free if gpu.usable >= resources.gpu_memory)
    return tuple(sorted(fitting, key=lambda gpu: (gpu.memory, gpu.usable, gpu.uuid))[:count])


# ---- what is missing, in words ---------------------------------------------------------------


def find_shortage(need: Resources, room: Room, capacity: Capacity, leases: Sequence[Lease]) -> str:
    """What is missing in `room` for `need`, in words; empty when it fits."""
    if refused := _excess(need, capacity.most):
        return refused
    if room.jobs == 0:
        return f"takes {_count(capacity.jobs or 0, 'job')} at once{_used(leases, lambda _: 1, str)}"
    if need.gpus:
        fitting = len(choose_gpus(room.gpus, need, len(room.gpus)))
        if need.gpus > fitting:
            return _gpu_shortage(need, fitting, capacity, leases)
    if need.cpus > room.cpus:
        wanted = f"needs {_count(need.cpus, 'cpu')}"
        if need.cpus > capacity.cpus:
            return f"{wanted}, has {capacity.cpus}"
        return f"{wanted}, {room.cpus} free of {capacity.cpus}{_used(leases, lambda held: held.cpus, str)}"
    if need.memory > room.memory:
        return _memory_shortage(need.memory, room.memory, capacity, leases)
    if room.disk is not None and need.disk > room.disk:
        used = _used(leases, lambda held: held.disk, show_size)
        return f"needs {show_size(need.disk)} of disk, {show_size(room.disk)} free{used}"
    return ""


def _excess(need: Resources, most: Most) -> str:
    """What the site's policy does not give to any one job."""
    if most.gpus is not None and need.gpus > most.gpus:
        return f"needs {_count(need.gpus, 'GPU')}, its policy gives a job at most {most.gpus}"
    if most.cpus is not None and need.cpus > most.cpus:
        return f"needs {_count(need.cpus, 'cpu')}, its policy gives a job at most {most.cpus}"
    if most.memory is not None and need.memory > most.memory:
        ceiling = show_size(most.memory)
        return f"needs {show_size(need.memory)} of memory, its policy gives a job at most {ceiling}"
    return ""


def _memory_shortage(need: int, free: int, capacity: Capacity, leases: Sequence[Lease]) -> str:
    wanted, has = f"needs {show_size(need)} of memory", show_size(capacity.memory)
    if need > capacity.memory:
        return f"{wanted}, has {has}"
    whole = whole_room(capacity).memory
    others = f", {show_size(capacity.memory - whole)} used by others" if whole < need else ""
    used = _used(leases, lambda held: held.memory, show_size)
    return f"{wanted}, {show_size(free)} free of {has}{others}{used}"


def _gpu_shortage(need: Resources, fitting: int, capacity: Capacity, leases: Sequence[Lease]) -> str:
    wanted = _count(need.gpus, "GPU") + (f" of {show_size(need.gpu_memory)}" if need.gpu_memory else "")
    if not capacity.gpus:
        return f"needs {wanted}, has 0" + (f" ({capacity.gpu_note})" if capacity.gpu_note else "")
    large = [gpu for gpu in capacity.gpus if gpu.memory >= need.gpu_memory]
    spoilt = [gpu for gpu in large if gpu.error or gpu.usable < need.gpu_memory]
    why = f" ({'; '.join(_describe(gpu) for gpu in spoilt[:_SHOWN])})" if spoilt else ""
    has = len(large) - len(spoilt)
    if has < need.gpus:
        return f"needs {wanted}, has {has}{why}"
    used = _used(leases, lambda held: held.gpus, str)
    return f"needs {wanted}, {fitting} free of {has}{used}{why}"


def _describe(gpu: GPURoom) -> str:
    """`gpu 0 has 15 GiB free: 9 GiB used by pid 4711`."""
    if gpu.error:
        return f"gpu {gpu.index}: {gpu.error}"
    others = f": {gpu.others}" if gpu.others else ""
    return f"gpu {gpu.index} has {show_size(gpu.usable)} free{others}"


def _used(leases: Sequence[Lease], amount: Callable[[Resources], int], show: Callable[[int], str]) -> str:
    """`: 6 used by job 3f2a... (heart), 2 kept for job 81bc... (lung), which is ahead`."""
    parts: list[str] = []
    for lease in leases:
        count = amount(lease.resources)
        if count and len(parts) == _SHOWN:
            parts.append("and more")
            break
        if count:
            parts.append(_holder(lease, show(count)))
    return f": {', '.join(parts)}" if parts else ""


def _holder(lease: Lease, count: str) -> str:
    name = f" ({lease.name})" if lease.name else ""
    if lease.ahead:
        return f"{count} kept for job {lease.job_id}{name}, which is ahead"
    return f"{count} used by job {lease.job_id}{name}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def show_size(size: int) -> str:
    """`512 MiB`, `1.5 GiB`: for people."""
    power = min(4, max(0, (size.bit_length() - 1) // 10))
    value = f"{size * 10 // 1024**power / 10:.1f}".removesuffix(".0")  # never more than there is
    return f"{value} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
