# SPDX-License-Identifier: Apache-2.0
"""The state of the site's machine: processors, memory, disk, each GPU as NVML reports it; what is left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flprov.agent.leases import HeldLease, lost_in_words
from flprov.errors import ConfigError, LocalError
from flprov.policy import Ceilings as PolicyCeilings
from flprov.policy import SitePolicy, SiteSettings, load_policy, load_site_settings
from flprov.wire.documents import CPU, GPU, Ceilings, GPUProcess, Held, SiteRoom, Space, Vitals, WarmStart
from flprov.workers import Footprint, confinement_method, read_footprints


class GPUs:
    """NVML, if this machine has it. The binding is loaded on first use."""

    def __init__(self) -> None:
        self._nvml: Any = None  # the pynvml module: it has no types
        self._known: dict[int, GPU] = {}  # as each was read last
        self.note = ""

    def read(self) -> tuple[GPU, ...]:
        """Every GPU now. Empty, with `note` saying why, on a machine without one."""
        try:
            return self._read_all()
        except Exception as error:
            self._nvml = None
            self.note = _explain(error)
            return ()

    def _read_all(self) -> tuple[GPU, ...]:
        if self._nvml is None:
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
        count = self._nvml.nvmlDeviceGetCount()
        self.note = "" if count else "the NVIDIA driver reports no GPU"
        return tuple(self._try_one(index) for index in range(count))

    def _try_one(self, index: int) -> GPU:
        """One GPU; one that has fallen off its bus is told as it was, with what the driver says of it."""
        try:
            found = self._known[index] = self._read_one(index)
        except self._nvml.NVMLError as error:
            known = self._known.get(index)
            if known is None:
                raise
            return replace(
                known, error=str(error), utilization=None, temperature=None, processes=(), used_by=()
            )
        return found

    def _read_one(self, index: int) -> GPU:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        processes = self._read_processes(handle)
        return GPU(
            index=index,
            uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
            name=_text(nvml.nvmlDeviceGetName(handle)),
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            memory_total=int(memory.total),
            memory_used=int(memory.used),
            utilization=self._optional(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            temperature=self._optional(lambda: float(nvml.nvmlDeviceGetTemperature(handle, 0))),
            processes=tuple(process.pid for process in processes),
            used_by=processes,
        )

    def _read_processes(self, handle: object) -> tuple[GPUProcess, ...]:
        found: dict[int, GPUProcess] = {}
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            memory = getattr(process, "usedGpuMemory", None)  # None: the driver does not tell
            pid = int(process.pid)
            found[pid] = GPUProcess(pid=pid, memory=None if memory is None else int(memory))
        return tuple(found[pid] for pid in sorted(found))

    def _optional(self, read: Callable[[], float]) -> float | None:
        """A figure that some cards do not have."""
        try:
            return read()
        except self._nvml.NVMLError:
            return None


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _explain(error: Exception) -> str:
    name = type(error).__name__
    if "LibraryNotFound" in name or "DriverNotLoaded" in name:
        return "no NVIDIA driver on this machine"
    return f"NVML: {error}"


def read_gpus() -> tuple[tuple[GPU, ...], str]:
    """Every GPU of this machine now, or why none can be read."""
    gpus = GPUs()
    return gpus.read(), gpus.note


def read_vitals(
    gpus: GPUs,
    *,
    state: Path,
    policy: Path,
    settings: Path,
    python: Path,
    jobs: tuple[str, ...] = (),
    held: Mapping[str, HeldLease] | None = None,
    warm: WarmStart | None = None,
) -> Vitals:
    """Everything that a heartbeat carries. Takes some milliseconds; call it off the event loop.

    Args:
        jobs: ids of those with a live process.
        held: what each job has leased, by its id.
        warm: the template that jobs are forked from.
    """
    import psutil

    leases = held or {}
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(state)
    files = _read_files(policy, settings)
    folders = [state / "jobs" / job_id for job_id in leases]
    prints = {path.name: found for path, found in read_footprints(folders).items()}
    cards = _mark(gpus.read(), leases, prints)
    lost = find_lost(cards, leases)
    count = os.cpu_count() or 1
    return Vitals(
        cpu=CPU(count=count, load=os.getloadavg()[0], percent=psutil.cpu_percent(None)),
        memory=Space(total=memory.total, available=memory.available),
        disk=Space(total=disk.total, available=disk.free),
        gpus=cards,
        gpu_note=gpus.note,
        confinement="unconfined" if files.rules.unconfined else confinement_method(),
        datasets=tuple(sorted(files.site.datasets)),
        jobs=tuple(jobs),
        python=str(files.site.python or python),
        room=SiteRoom(
            cpus=max(0, count - sum(lease.cpus for lease in leases.values())),
            memory=_memory_left(memory.available, leases, prints),
            disk=max(0, disk.free - sum(lease.disk for lease in leases.values())),
            held=tuple(_held(lease) for _, lease in sorted(leases.items())),
            ceilings=_ceilings(files.rules.ceilings),
            lost=lost,
        ),
        notes=(*files.notes, *_lost_in_words(cards, lost)),
        filters=files.rules.filters.in_words,
        warm=warm,
    )


@dataclass(frozen=True, kw_only=True)
class _Files:
    """What the site says of itself, and what is wrong with that."""

    rules: SitePolicy
    site: SiteSettings
    notes: tuple[str, ...] = ()


def _read_files(policy: Path, settings: Path) -> _Files:
    """A file with mistakes, or one that we may not read, is no reason to fall silent."""
    rules, site, notes = SitePolicy(source=policy), SiteSettings(source=settings), list[str]()
    try:
        rules = load_policy(policy)
        if not (rules.organisations or rules.people):
            lacks = "its policy.yml allows nobody" if policy.exists() else "it has no policy.yml"
            notes.append(f"{lacks}, so it takes no jobs ({policy})")
        site = load_site_settings(settings)
    except ConfigError as error:
        notes.append(error.problems[0])
    except LocalError as error:
        notes.append(str(error))
    return _Files(rules=rules, site=site, notes=tuple(notes))


def _ceilings(found: PolicyCeilings) -> Ceilings:
    return Ceilings(gpus=found.gpus, cpus=found.cpus, memory=found.memory, jobs=found.jobs)


def _lost_in_words(gpus: tuple[GPU, ...], lost: Mapping[str, str]) -> list[str]:
    errors = {gpu.uuid: gpu.error for gpu in gpus}
    return [
        f"gpu {uuid}, which job {job_id} has, {lost_in_words(errors.get(uuid))}"
        for uuid, job_id in lost.items()
    ]


def _memory_left(available: int, leases: Mapping[str, HeldLease], prints: Mapping[str, Footprint]) -> int:
    """What is available, without what our own jobs may still come to use of what they have leased."""
    promised = sum(
        max(0, lease.memory - prints.get(job_id, Footprint()).memory) for job_id, lease in leases.items()
    )
    return max(0, available - promised)


def _held(lease: HeldLease) -> Held:
    return Held(job_id=lease.job_id, gpus=lease.gpus, cpus=lease.cpus, memory=lease.memory, disk=lease.disk)


def _mark(
    gpus: tuple[GPU, ...], leases: Mapping[str, HeldLease], prints: Mapping[str, Footprint]
) -> tuple[GPU, ...]:
    """Which job has which GPU, and which processes on it are of our jobs."""
    ours = frozenset(pid for found in prints.values() for pid in found.pids)
    return tuple(
        replace(
            gpu,
            leased_to=tuple(job_id for job_id, lease in leases.items() if gpu.uuid in lease.gpus),
            used_by=tuple(replace(process, ours=process.pid in ours) for process in gpu.used_by),
        )
        for gpu in gpus
    )


def find_lost(gpus: tuple[GPU, ...], leases: Mapping[str, HeldLease]) -> dict[str, str]:
    """The leased GPUs that can no longer be used: UUID -> the job that has it."""
    usable = {gpu.uuid for gpu in gpus if not gpu.error}
    return {uuid: job_id for job_id, lease in leases.items() for uuid in lease.gpus if uuid not in usable}
