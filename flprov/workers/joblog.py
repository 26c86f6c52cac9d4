# SPDX-License-Identifier: Apache-2.0
"""The job's log: what the worker and its children print, the newest of it. Runs in the shim."""

from __future__ import annotations

import os

from flprov.workers.logsegments import LogSegments

_CHUNK = 1 << 16


class JobLog:
    """Copies a pipe into the log's segments."""

    def __init__(self, base: str, *, limit: int) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.pipe = reading  # to be polled
        self.inlet = writing  # the worker's stdout and stderr
        self._segments = LogSegments(base, limit=limit)

    @property
    def dropped(self) -> int:
        """Bytes that are not in the log any more, or never found space."""
        return self._segments.dropped

    def close_inlet(self) -> None:
        """After the fork only the worker and what it starts may hold the pipe open."""
        os.close(self.inlet)

    def write(self, text: str) -> None:
        """A line of the shim's own."""
        self._segments.append(text.encode())

    def copy(self) -> bool:
        """Copy what is there, one chunk at most. False at the end of the stream."""
        try:
            data = os.read(self.pipe, _CHUNK)
        except BlockingIOError:
            return True
        self._segments.append(data)
        return bool(data)

    def drain(self) -> None:
        """Copy what is left in the pipe, when nobody writes to it any more."""
        while self._waiting() and self.copy():
            pass

    def _waiting(self) -> bool:
        import select

        return bool(select.select([self.pipe], [], [], 0)[0])
