# SPDX-License-Identifier: Apache-2.0
"""What a machine says of itself: processors, memory, GPUs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One GPU as NVML reports it."""

    index: int
    uuid: str
    name: str
    driver: str
    memory_total: int
    memory_used: int
    utilization: float | None  # percent; None where the driver does not tell
    temperature: float | None  # degrees Celsius
    processes: tuple[int, ...] = ()  # pids that hold memory on it
    leased_to: tuple[str, ...] = ()  # job ids


@dataclass(frozen=True, kw_only=True)
class CPU:
    """Processors of a machine."""

    count: int
    load: float  # 1-minute load average
    percent: float  # busy since the last heartbeat


@dataclass(frozen=True, kw_only=True)
class Space:
    """Memory or disk."""

    total: int
    available: int


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What a heartbeat carries: the state of the site's machine."""

    cpu: CPU
    memory: Space
    disk: Space  # where the site keeps its state
    gpus: tuple[GPU, ...] = ()
    gpu_note: str = ""  # why there are none: "no NVIDIA driver on this machine"
    confinement: str = ""  # how job code is confined here: landlock, bubblewrap, unconfined, none
    datasets: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()  # ids of jobs with a live process
    python: str = ""  # interpreter for jobs
    notes: tuple[str, ...] = ()  # anything an operator should see, e.g. "policy allows nobody"
