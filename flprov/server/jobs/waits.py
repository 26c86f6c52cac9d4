# SPDX-License-Identifier: Apache-2.0
"""Sites that had no room for a job when they were asked, and when they are asked again.

The site's agent measures; the server goes by what it was told last. When the two disagree, the site has
said no, and is asked again once it tells of other room than it had. A site that tells of the same room
all the time is asked again as well, after more and more heartbeats.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from flprov.wire.documents import Vitals

_MOST_BEATS = 12  # a minute

Print = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class _Wait:
    """One job at one site."""

    reason: str
    seen: Print  # what the site had told when it said no
    times: int
    beats: int  # heartbeats until it is asked again, if nothing changes; 0: it is asked


class Waits:
    """Memory only: a site says no again if it still has to."""

    def __init__(self) -> None:
        self._waits: dict[str, dict[str, _Wait]] = {}  # site -> job id
        self._seen: dict[str, Print] = {}

    def defer(self, site: str, job_id: str, reason: str, vitals: Vitals | None) -> None:
        """The site has no room for this job now."""
        known = self._waits.setdefault(site, {})
        times = known[job_id].times + 1 if job_id in known else 1
        seen = fingerprint(vitals) if vitals else ()
        beats = min(2 ** (times - 1), _MOST_BEATS)
        known[job_id] = _Wait(reason=reason, seen=seen, times=times, beats=beats)

    def heard(self, site: str, vitals: Vitals) -> bool:
        """A heartbeat has come; whether the scheduler should look again."""
        seen = fingerprint(vitals)
        news = self._seen.get(site) != seen
        self._seen[site] = seen
        for job_id, wait in self._waits.get(site, {}).items():
            beats = 0 if seen != wait.seen else max(0, wait.beats - 1)
            news = news or (beats == 0 and wait.beats > 0)
            self._waits[site][job_id] = replace(wait, beats=beats)
        return news

    def forget(self, site: str) -> None:
        """It came or went: nothing is known of it until it tells, and then that is news, whatever it says."""
        self._seen.pop(site, None)

    def at(self, site: str) -> Mapping[str, str]:
        """The jobs that wait there, and why in words."""
        return {
            job_id: f"had no room when it was asked{_times(wait.times)}: {wait.reason}"
            for job_id, wait in self._waits.get(site, {}).items()
            if wait.beats
        }

    def keep(self, job_ids: Collection[str]) -> None:
        """Forget all other jobs."""
        for site, known in self._waits.items():
            self._waits[site] = {job_id: wait for job_id, wait in known.items() if job_id in job_ids}


def _times(times: int) -> str:
    return f" ({times} times)" if times > 1 else ""


def fingerprint(vitals: Vitals) -> Print:
    """What a plan follows from, as coarsely as a plan needs it: memory never stands still."""
    room = vitals.room
    left = (room.cpus, room.memory >> 28, room.disk >> 30, room.held, room.ceilings) if room else ()
    gpus = tuple((gpu.uuid, gpu.free >> 28, gpu.leased_to, bool(gpu.error)) for gpu in vitals.gpus)
    return (vitals.cpu.count, vitals.memory.total, left, gpus)
