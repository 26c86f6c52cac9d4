# SPDX-License-Identifier: Apache-2.0
"""The calls that are open now, per identity: so that a revocation reaches streams that began before it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial

from flprov.errors import FlprovError, Unavailable
from flprov.pki import Kind
from flprov.rpc.methods import Shape
from flprov.rpc.transport import Call

# Of one identity. Each can fill what gRPC lets come ahead (grpc_settings.py), and each that watches is worked
# for whenever something changes. A site has a handful; a lead may wait for many jobs at once.
MOST_OPEN = {Kind.SITE: 64, Kind.INVITE: 8, Kind.PERSON: 256}


class OpenCalls:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: dict[Call, asyncio.Task[object]] = {}
        self._calls: dict[str, set[Call]] = {}  # by identity
        self._reasons: dict[Call, FlprovError] = {}

    @contextlib.contextmanager
    def track(self, call: Call) -> Iterator[None]:
        """While inside, the current task is this call; ending it raises the given reason here.

        Raises:
            Unavailable: the caller has too many open already.
        """
        task = asyncio.current_task()
        assert task is not None
        most = MOST_OPEN[call.caller.kind]
        if len(self._calls.get(call.caller.uri, ())) >= most:
            raise Unavailable(
                f"{call.caller} has {most} calls open already",
                hint="end some of what is watching or waiting",
            )
        self._tasks[call] = task
        self._calls.setdefault(call.caller.uri, set()).add(call)
        call.begin(cut=partial(self._end, call))
        try:
            yield
        except asyncio.CancelledError:
            reason = self._reasons.get(call)
            if reason is None:
                raise
            task.uncancel()
            raise reason from None
        finally:
            self._forget(call)

    def _forget(self, call: Call) -> None:
        call.end()
        del self._tasks[call]
        self._reasons.pop(call, None)
        mine = self._calls[call.caller.uri]
        mine.discard(call)
        if not mine:
            del self._calls[call.caller.uri]

    def end_of(self, identity_uri: str, reason: FlprovError) -> int:
        """End the calls of one identity, save the one that we are in; how many."""
        return sum(self._end(call, reason) for call in tuple(self._calls.get(identity_uri, ())))

    def end_streams(self, reason: FlprovError) -> int:
        """End whatever is not unary; how many."""
        return sum(
            self._end(call, reason) for call in tuple(self._tasks) if call.method.shape is not Shape.UNARY
        )

    def _end(self, call: Call, reason: FlprovError) -> bool:
        task = self._tasks[call]
        if task is asyncio.current_task() or call in self._reasons:
            return False
        # The task waits inside `track`, or it would be the current one: the cancellation lands there.
        self._reasons[call] = reason
        task.cancel()
        return True

    def __len__(self) -> int:
        return len(self._tasks)
