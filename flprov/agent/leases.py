# SPDX-License-Identifier: Apache-2.0
"""What each job holds of this site's machine. The agent owns this; the server only proposes.

A lease is measured, decided and on disk before its job begins, and it is there again after the agent was
killed. What a job asked for stays leased while its processes live, whatever they use of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from flprov._base import Clock, from_document, to_document
from flprov.errors import FlprovError, NoRoom
from flprov.jobs import (
    Capacity,
    GPURoom,
    Lease,
    Resources,
    capacity_of,
    choose_gpus,
    find_room,
    find_shortage,
    show_size,
    site_disk,
)
from flprov.store import Delete, Put, Store
from flprov.wire.documents import SiteOffer, Vitals

logger = logging.getLogger(__name__)

_KIND = "lease"


@dataclass(frozen=True, kw_only=True)
class HeldLease:
    """What one job holds here."""

    job_id: str
    name: str  # of the job, for messages
    at: datetime
    gpus: tuple[str, ...] = ()  # UUIDs
    gpu_memory: int = 0
    cpus: int = 0
    memory: int = 0
    disk: int = 0

    @property
    def words(self) -> tuple[str, ...]:
        """For whoever is told that it is free again."""
        cpus = (f"{self.cpus} cpu" + ("s" if self.cpus != 1 else ""),)
        disk = (f"{show_size(self.disk)} of disk",) if self.disk else ()
        memory = f"{show_size(self.memory)} of memory"
        return (*(f"gpu {uuid}" for uuid in self.gpus), *cpus, memory, *disk)

    def as_lease(self) -> Lease:
        """For the rules that say what is missing."""
        need = Resources(gpus=len(self.gpus), cpus=self.cpus, memory=self.memory, disk=self.disk)
        return Lease(job_id=self.job_id, name=self.name, resources=need)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a job would get."""

    missing: str  # in words; empty: nothing
    document: SiteOffer


class Leases:
    """The leases of a site."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        measure: Callable[[Mapping[str, HeldLease]], Vitals],
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._measure = measure  # the machine as it is now, with these leases; blocks for milliseconds
        self._on_change = on_change
        self._held: dict[str, HeldLease] = {}
        self._deciding = asyncio.Lock()

    def load(self) -> None:
        """What was held when the agent ended, however it ended."""
        self._held = {key: from_document(HeldLease, value) for key, value in self._store.load(_KIND).items()}

    def held(self, job_id: str) -> HeldLease | None:
        """What this job holds."""
        return self._held.get(job_id)

    @property
    def all(self) -> Mapping[str, HeldLease]:
        """Every lease, by job id."""
        return dict(self._held)

    async def lease(
        self, job_id: str, resources: Resources, *, name: str = "", app_size: int = 0, model_size: int = 0
    ) -> HeldLease:
        """Give a job what it asks for. A job that has its lease gets the same again.

        Raises:
            NoRoom: there is not enough now; the message says of what, and who has it.
            LocalError: it could not be written down.
        """
        async with self._deciding:
            held = self._held.get(job_id)
            if held is not None:
                await self._verify_there(held)
                return held
            capacity = await self._read()
            need = replace(resources, disk=site_disk(resources, app_size, model_size))
            gpus = self._choose(need, capacity)
            lease = HeldLease(
                job_id=job_id,
                name=name,
                at=self._clock.now(),
                gpus=tuple(gpu.uuid for gpu in gpus),
                gpu_memory=need.gpu_memory,
                cpus=need.cpus,
                memory=need.memory,
                disk=need.disk,
            )
            await self._store.commit([Put(_KIND, job_id, to_document(lease))], None)
            self._held[job_id] = lease
        self._on_change()
        return lease

    async def shortage(self, resources: Resources, *, app_size: int = 0, model_size: int = 0) -> str:
        """Why a job would not get its lease now, in words; empty: it would. Nothing is leased."""
        return (await self.offer(resources, app_size=app_size, model_size=model_size)).missing

    async def offer(self, resources: Resources, *, app_size: int = 0, model_size: int = 0) -> Offer:
        """What a job would get now, or what is missing. Nothing is leased."""
        vitals = await asyncio.to_thread(self._measure, self.all)
        need = replace(resources, disk=site_disk(resources, app_size, model_size))
        gpus, missing = tuple[GPURoom, ...](), ""
        try:
            gpus = self._choose(need, capacity_of(vitals))
        except NoRoom as error:
            missing = str(error)
        room = vitals.room
        return Offer(
            missing=missing,
            document=SiteOffer(
                cpus=room.cpus if room else 0,
                memory=room.memory if room else 0,
                disk=room.disk if room else 0,
                gpus=tuple(gpu.uuid for gpu in gpus),
                disk_needed=need.disk,
                python=vitals.python,
            ),
        )

    async def release(self, job_id: str) -> tuple[str, ...]:
        """The job is gone: what it held, in words; nothing when it held nothing."""
        held = self._held.pop(job_id, None)
        if held is None:
            return ()
        try:
            await self._store.commit([Delete(_KIND, job_id)], None, urgent=True)
        except FlprovError as error:  # an agent that starts anew finds it, and its job gone
            logger.warning("the lease of job %s is over, which could not be written down: %s", job_id, error)
        self._on_change()
        return held.words

    async def _read(self) -> Capacity:
        return capacity_of(await asyncio.to_thread(self._measure, self.all))

    def _choose(self, need: Resources, capacity: Capacity) -> tuple[GPURoom, ...]:
        room = find_room(capacity, ())  # its own leases are in what was measured
        holders = [held.as_lease() for held in self._held.values()]
        missing = find_shortage(need, room, capacity, holders)
        if missing:
            raise NoRoom(missing, hint="it is tried again when something changes here")
        return choose_gpus(room.gpus, need, need.gpus)

    async def _verify_there(self, held: HeldLease) -> None:
        """A GPU may have gone since it was leased."""
        if not held.gpus:
            return
        there = {gpu.uuid: gpu.error for gpu in (await self._read()).gpus}
        for uuid in held.gpus:
            if there.get(uuid, "gone"):
                raise NoRoom(f"gpu {uuid}, which job {held.job_id} has, {lost_in_words(there.get(uuid))}")


def lost_in_words(error: str | None) -> str:
    """What has become of a GPU that was leased; None: the driver does not know it any more."""
    return f"cannot be used: {error}" if error else "is not there any more"
