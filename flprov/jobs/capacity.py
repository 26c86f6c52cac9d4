# SPDX-License-Identifier: Apache-2.0
"""From what a site tells of itself to what may be counted on: the same step at the site and at the server."""

from __future__ import annotations

from flprov.jobs.job import Resources
from flprov.jobs.room import Capacity, GPURoom, Left, Most, show_size
from flprov.wire.documents import GPU, SiteRoom, Vitals


def capacity_of(vitals: Vitals) -> Capacity:
    """What a site has, for `find_room`."""
    room = vitals.room
    most = room.ceilings if room else None
    return Capacity(
        cpus=vitals.cpu.count,
        memory=vitals.memory.total,
        gpus=tuple(gpu_room(gpu) for gpu in vitals.gpus),
        gpu_note=vitals.gpu_note,
        jobs=most.jobs if most else None,
        most=Most(gpus=most.gpus, cpus=most.cpus, memory=most.memory) if most else Most(),
        left=_left(room) if room else None,
    )


def gpu_room(gpu: GPU) -> GPURoom:
    """A GPU as the scheduler sees it."""
    others = [process for process in gpu.used_by if not process.ours]
    pids = ", ".join(f"pid {process.pid}" for process in others[:3])
    used = gpu.memory_total - gpu.free
    words = f"{show_size(used)} used" + (f" by {pids}" if pids else "")
    return GPURoom(
        uuid=gpu.uuid,
        memory=gpu.memory_total,
        leased_to=gpu.leased_to,
        free=gpu.free,
        index=gpu.index,
        others=words if used else "",
        error=gpu.error,
    )


def _left(room: SiteRoom) -> Left:
    held = {
        held.job_id: Resources(cpus=held.cpus, memory=held.memory, disk=held.disk, gpus=len(held.gpus))
        for held in room.held
    }
    return Left(cpus=room.cpus, memory=room.memory, disk=room.disk, held=held)


def site_disk(resources: Resources, app_size: int, model_size: int) -> int:
    """What a job takes of a site's disk: what it asks for, its app packed and unpacked, and two models."""
    return resources.disk + 2 * app_size + 2 * model_size
