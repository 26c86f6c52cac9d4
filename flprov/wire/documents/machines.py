# SPDX-License-Identifier: Apache-2.0
"""What a machine says of itself: processors, memory, GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from flprov._base import dataclass


@dataclass(frozen=True, kw_only=True)
class GPUProcess:
    """A process that holds memory on a GPU."""

    pid: int
    memory: int | None = None  # bytes; None where the driver does not tell
    ours: bool = False  # it belongs to one of flprov's jobs


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
    used_by: tuple[GPUProcess, ...] = ()  # the same processes with what they hold
    error: str = ""  # why it cannot be used: "GPU is lost"

    @property
    def free(self) -> int:
        """Bytes that a job could have here if it had the GPU to itself: others' processes stay.

        What a leased GPU holds beside the processes that the driver names belongs to the job that has it.
        """
        if self.leased_to:
            others = sum(process.memory or 0 for process in self.used_by if not process.ours)
        else:
            others = self.memory_used
        return max(0, self.memory_total - others)


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
class Held:
    """What one job holds at a site."""

    job_id: str
    gpus: tuple[str, ...] = ()  # UUIDs
    cpus: int = 0
    memory: int = 0
    disk: int = 0


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The most that one job may ask of a site, by its policy; None is no ceiling."""

    gpus: int | None = None
    cpus: int | None = None
    memory: int | None = None
    jobs: int | None = None  # jobs at the same time


@dataclass(frozen=True, kw_only=True)
class SiteRoom:
    """What a site has left for jobs, as its agent measures and counts it."""

    cpus: int
    memory: int  # available, without what its jobs have been promised and do not use yet
    disk: int  # likewise
    held: tuple[Held, ...] = ()
    ceilings: Ceilings = field(default_factory=Ceilings)
    lost: Mapping[str, str] = field(default_factory=dict)  # UUID of a leased GPU that is gone -> job id


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing that a machine must have before it can run jobs."""

    name: str  # disk, confinement, policy, datasets, interpreter, packages, gpu driver
    ok: bool
    since: datetime  # it is so, by the site's own clock
    reason: str = ""  # what is wrong; or, when nothing is, what was found


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The template that job processes are forked from: it has imported what they need."""

    state: str  # ready, starting, or off: then each job's process starts anew
    python: str = ""
    modules: tuple[str, ...] = ()  # what it has imported, beside flprov's own
    memory: int = 0  # bytes that it holds while no job runs; jobs share them
    note: str = ""  # why it is off, or what it could not import


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
    room: SiteRoom | None = None  # None from an older agent
    notes: tuple[str, ...] = ()  # anything an operator should see, e.g. "policy allows nobody"
    filters: str = ""  # of its policy.yml: what every model and update passes; empty: nothing
    at: datetime | None = None  # when it was read, by the site's own clock; None from an older agent
    environment: tuple[Condition, ...] = ()  # whether jobs can run, thing by thing
    warm: WarmStart | None = None  # None from an older agent
