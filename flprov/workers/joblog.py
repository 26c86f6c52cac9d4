# SPDX-License-Identifier: Apache-2.0
"""The job's log: what the worker and its children print, up to a limit. Runs in the shim."""

from __future__ import annotations

import os

_CHUNK = 1 << 16


class JobLog:
    """Copies a pipe into the log file; what is above the limit, or finds no space, is dropped."""

    def __init__(self, path: str, *, limit: int) -> None:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.pipe = reading  # to be polled
        self.inlet = writing  # the worker's stdout and stderr
        self.dropped = 0  # bytes
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._room = max(0, limit - os.fstat(self._file).st_size)
        self._limit = limit

    def close_inlet(self) -> None:
        """After the fork only the worker and what it starts may hold the pipe open."""
        os.close(self.inlet)

    def copy(self) -> bool:
        """Copy what is there, one chunk at most. False at the end of the stream."""
        try:
            data = os.read(self.pipe, _CHUNK)
        except BlockingIOError:
            return True
        if not data:
            return False
        kept = data[: self._room]
        self._room -= len(kept)
        written = self._write(kept)
        if len(kept) < len(data) and self.dropped == 0:
            note = f"\n[flprov: more than {self._limit} bytes of output; the rest is dropped]\n"
            self._write(note.encode())
        self.dropped += len(data) - written
        return True

    def drain(self) -> None:
        """Copy what is left in the pipe, when nobody writes to it any more."""
        while self._waiting() and self.copy():
            pass

    def _waiting(self) -> bool:
        import select

        return bool(select.select([self.pipe], [], [], 0)[0])

    def _write(self, data: bytes) -> int:
        """How many bytes found space: a full disk loses output, not the job."""
        try:
            return os.write(self._file, data) if data else 0
        except OSError:
            return 0
