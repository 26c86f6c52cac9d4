# SPDX-License-Identifier: Apache-2.0
"""What the site wants to say and has not yet: bounded, because a newer word takes the place of an older one.

Of heartbeats only the newest is kept, of progress the newest of each job: they are dropped first, and
nobody misses them. Everything else is kept until it has left; said again before that, it is said once. So
there is never more of it than jobs and tasks that are open here. What must not be lost is on the site's
disk besides, and is said again after a reconnect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from flprov.wire import pb

Key = tuple[str, ...]

_PASSING = frozenset({"heartbeat", "progress", "probed"})  # of no use when it is late
MOST = 1_000  # messages that are waiting; beyond it, what is passing is not taken


class Outbox:
    """A queue of one connection: `put` here, `drain` there."""

    def __init__(self, *, most: int = MOST) -> None:
        self._most = most
        self._waiting: dict[Key, pb.FromSite] = {}
        self._filled = asyncio.Event()
        self._ending = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, message: pb.FromSite) -> None:
        """To be sent after what waits already; in the place of an older word about the same thing."""
        key = key_of(message)
        self._waiting.pop(key, None)
        if len(self._waiting) >= self._most:
            if key[0] in _PASSING:
                return
            self._drop_passing()
        self._waiting[key] = message
        self._filled.set()

    def _drop_passing(self) -> None:
        for key in [key for key in self._waiting if key[0] in _PASSING]:
            del self._waiting[key]

    def end(self) -> None:
        """Nothing follows what waits: the stream ends after it."""
        self._ending = True
        self._filled.set()

    async def drain(self) -> AsyncIterator[pb.FromSite]:
        """Every message in order, as fast as they are taken; ends after `end`."""
        while True:
            if self._waiting:
                yield self._waiting.pop(next(iter(self._waiting)))
            elif self._ending:
                return
            else:
                self._filled.clear()
                await self._filled.wait()


def key_of(message: pb.FromSite) -> Key:
    """What a message is about: of two with the same key only the newer one counts."""
    kind = message.WhichOneof("body") or ""
    match kind:
        case "answer":
            return (kind, message.answer.job_id, message.answer.task_id)
        case "deployed":
            return (kind, message.deployed.job_id)
        case "progress":
            return (kind, message.progress.job_id)
        case "stopped":
            return (kind, message.stopped.job_id)
        case "probed":
            return (kind, message.probed.probe_id)
        case _:
            return (kind,)
