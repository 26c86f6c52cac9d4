# SPDX-License-Identifier: Apache-2.0
"""Who waits for new rows of the log: told of each commit that has one, in the loop in which they wait."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection

from flprov.errors import LocalError

Listener = Callable[[int], None]
Loop = asyncio.AbstractEventLoop


class Heads:
    """The listeners of one store. Listening is for event loops; telling is for any thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._listeners: dict[object, tuple[Loop, Listener]] = {}
        self._ended: dict[asyncio.Future[int], Loop] = {}
        self._closed = False

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(head)` in this event loop after each commit with a row; call the result to stop."""
        ticket = object()
        with self._lock:
            self._listeners[ticket] = (asyncio.get_running_loop(), listener)

        def stop() -> None:
            with self._lock:
                self._listeners.pop(ticket, None)

        return stop

    async def wait_beyond(self, index: int, head: Callable[[], int]) -> int:
        """The index of the last row, once it is larger than `index`.

        Raises:
            LocalError: the store was closed.
        """
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[int] = loop.create_future()

        def look(found: int) -> None:
            if found > index and not waiting.done():
                waiting.set_result(found)

        stop = self.listen(look)
        try:
            self._enter(waiting, loop)
            if not waiting.done():  # a listener hears of what comes, and this may have come before it
                look(head())
            return await waiting
        finally:
            stop()
            with self._lock:
                self._ended.pop(waiting, None)

    def _enter(self, waiting: asyncio.Future[int], loop: Loop) -> None:
        with self._lock:
            if not self._closed:
                self._ended[waiting] = loop
                return
        waiting.set_exception(self._refusal())

    @property
    def loops(self) -> Collection[Loop]:
        """Where somebody listens."""
        if not self._listeners:  # the usual case costs nothing
            return ()
        with self._lock:
            return {loop for loop, _ in self._listeners.values()}

    def tell(self, loop: Loop, head: int) -> None:
        """Tell those who listen in this loop, which is running."""
        with self._lock:
            listeners = [listener for where, listener in self._listeners.values() if where is loop]
        for listener in listeners:
            listener(head)

    def close(self) -> None:
        """No more rows will come."""
        with self._lock:
            self._closed = True
            ended, self._ended = self._ended, {}
        for waiting, loop in ended.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._end, waiting)

    def _end(self, waiting: asyncio.Future[int]) -> None:
        if not waiting.done():
            waiting.set_exception(self._refusal())

    def _refusal(self) -> LocalError:
        return LocalError(f"{self._name} is closed")
