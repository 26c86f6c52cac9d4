# SPDX-License-Identifier: Apache-2.0
"""Open files and their failures, below blobs and uploads."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from flprov.errors import LocalError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def disk_errors(failed: str) -> Iterator[None]:
    """Inside, an OSError comes out as LocalError; `failed` says what could not be done."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise LocalError(f"{failed}: the disk is full", hint="free some space on that disk") from error
        raise LocalError(f"{failed}: {error.strerror or error}") from error


class OpenFile:
    """A file descriptor that closes when the last one who uses it lets go of it.

    A thread may still be syncing it after its caller was cancelled; closing it under the thread
    would let the number come to mean another file.
    """

    def __init__(self, path: Path, flags: int) -> None:
        self.number = -1
        self.number = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)

    @property
    def size(self) -> int:
        """Bytes in it now."""
        return os.fstat(self.number).st_size

    def read_chunks(self, offset: int, chunk: int) -> Iterator[bytes]:
        """Its bytes from `offset` on, in pieces of `chunk`."""
        while data := os.pread(self.number, chunk, offset):
            yield data
            offset += len(data)

    def write(self, data: bytes) -> None:
        """All of `data`, where the file's position is."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.number, rest) :]

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes and go on writing there."""
        os.ftruncate(self.number, size)
        os.lseek(self.number, size, os.SEEK_SET)

    def sync(self) -> None:
        """Bring its bytes to disk."""
        os.fdatasync(self.number)

    def seal(self) -> None:
        """Bring bytes and mode to disk; it is never written again."""
        os.fchmod(self.number, 0o444)
        os.fsync(self.number)
