# SPDX-License-Identifier: Apache-2.0
"""Which job has which GPU at this site. The agent owns this; the server only proposes."""

from __future__ import annotations

from collections.abc import Sequence

from flprov.errors import PolicyRefused
from flprov.wire.documents import GPU


class GPULeases:
    """One GPU goes to one job at a time."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[str, ...]] = {}  # job id -> UUIDs

    def lease(
        self, job_id: str, gpus: Sequence[GPU], *, count: int, memory: int, note: str = ""
    ) -> tuple[str, ...]:
        """GPUs for a job: the smallest free ones that have `memory` bytes free.

        Raises:
            PolicyRefused: there are not enough; the message says what stands in the way.
        """
        if count == 0:
            return ()
        if job_id in self._held:
            return self._held[job_id]
        taken = {uuid for uuids in self._held.values() for uuid in uuids}
        fitting = [
            gpu for gpu in gpus if gpu.uuid not in taken and gpu.memory_total - gpu.memory_used >= memory
        ]
        if len(fitting) < count:
            need = f"needs {count} x {memory / 2**30:g} GiB free" if memory else f"needs {count} GPUs"
            raise PolicyRefused(f"{need}; {self._describe(gpus, note)}")
        chosen = sorted(fitting, key=lambda gpu: (gpu.memory_total, gpu.index))[:count]
        self._held[job_id] = tuple(gpu.uuid for gpu in chosen)
        return self._held[job_id]

    def release(self, job_id: str) -> None:
        """The job is gone; its GPUs are free."""
        self._held.pop(job_id, None)

    def holders(self, uuid: str) -> tuple[str, ...]:
        """The jobs that have this GPU."""
        return tuple(job_id for job_id, uuids in self._held.items() if uuid in uuids)

    def _describe(self, gpus: Sequence[GPU], note: str) -> str:
        if not gpus:
            return f"this site has none ({note})" if note else "this site has none"
        return "; ".join(self._describe_one(gpu) for gpu in gpus)

    def _describe_one(self, gpu: GPU) -> str:
        holders = self.holders(gpu.uuid)
        free = (gpu.memory_total - gpu.memory_used) / 2**30
        if holders:
            return f"gpu {gpu.index} is leased to job {holders[0]}"
        used = f" ({', '.join(f'pid {pid}' for pid in gpu.processes)})" if gpu.processes else ""
        return f"gpu {gpu.index} has {free:.1f} GiB free{used}"
