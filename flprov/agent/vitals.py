# SPDX-License-Identifier: Apache-2.0
"""The state of the site's machine: processors, memory, disk, and each GPU as NVML reports it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flprov.agent.leases import GPULeases
from flprov.errors import ConfigError, LocalError
from flprov.policy import load_policy, load_site_settings
from flprov.wire.documents import CPU, GPU, Space, Vitals
from flprov.workers import confinement_method


class GPUs:
    """NVML, if this machine has it. The binding is loaded on first use."""

    def __init__(self, leases: GPULeases) -> None:
        self.leases = leases
        self._nvml: Any = None  # the pynvml module: it has no types
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
        return tuple(self._read_one(index) for index in range(count))

    def _read_one(self, index: int) -> GPU:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return GPU(
            index=index,
            uuid=uuid,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            driver=_text(nvml.nvmlSystemGetDriverVersion()),
            memory_total=int(memory.total),
            memory_used=int(memory.used),
            utilization=self._optional(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            temperature=self._optional(lambda: float(nvml.nvmlDeviceGetTemperature(handle, 0))),
            processes=tuple(sorted({int(p.pid) for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle)})),
            leased_to=self.leases.holders(uuid),
        )

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
    gpus = GPUs(GPULeases())
    return gpus.read(), gpus.note


def read_vitals(
    gpus: GPUs, *, state: Path, policy: Path, settings: Path, python: Path, jobs: Sequence[str]
) -> Vitals:
    """Everything that a heartbeat carries. Takes some milliseconds; call it off the event loop."""
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(state)
    notes: list[str] = []
    unconfined, datasets = False, tuple[str, ...]()
    try:
        rules = load_policy(policy)
        unconfined = rules.unconfined
        if not (rules.organisations or rules.people):
            lacks = "its policy.yml allows nobody" if policy.exists() else "it has no policy.yml"
            notes.append(f"{lacks}, so it takes no jobs ({policy})")
        site = load_site_settings(settings)
        datasets, python = tuple(sorted(site.datasets)), site.python or python
    except ConfigError as error:
        notes.append(error.problems[0])
    except LocalError as error:  # a file that we may not read is no reason to fall silent
        notes.append(str(error))
    return Vitals(
        cpu=CPU(count=os.cpu_count() or 1, load=os.getloadavg()[0], percent=psutil.cpu_percent(None)),
        memory=Space(total=memory.total, available=memory.available),
        disk=Space(total=disk.total, available=disk.free),
        gpus=gpus.read(),
        gpu_note=gpus.note,
        confinement="unconfined" if unconfined else confinement_method(),
        datasets=datasets,
        jobs=tuple(jobs),
        python=str(python),
        notes=tuple(notes),
    )
