# SPDX-License-Identifier: Apache-2.0
"""Open files and their failures, below blobs and uploads."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from flprov._base import on_overlayfs
from flprov.blobs.digests import Hasher
from flprov.errors import LocalError

DURABLE = 0o444  # the mode of a blob that is on the disk
UNSYNCED = 0o400  # of one that may be lost, or half lost, when the machine loses its power

_FILLED = "user.flprov.filled"  # an extended attribute, in decimal digits
_PIECE = 256 << 10
_FAR = 1 << 62
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextlib.contextmanager
def disk_errors(failed: str) -> Iterator[None]:
    """Inside, an OSError comes out as LocalError; `failed` says what could not be done."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
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

    def read_chunks(self, offset: int, chunk: int, end: int = _FAR) -> Iterator[bytes]:
        """Its bytes from `offset` to `end`, or to its own, in pieces of `chunk`."""
        while data := os.pread(self.number, min(chunk, end - offset), offset):
            yield data
            offset += len(data)

    def pass_through(self, hasher: Hasher, end: int = _FAR) -> int:
        """Put its bytes, up to `end`, through a hash; how many there were."""
        piece, size = memoryview(bytearray(_PIECE)), 0  # one buffer that stays in the processor's cache
        while got := os.preadv(self.number, [piece[: end - size]], size):
            hasher.update(piece[:got])
            size += got
        return size

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """All of `data`, from `offset` on."""
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self.number, rest, offset)
            rest, offset = rest[written:], offset + written

    @property
    def noted(self) -> int | None:
        """What `note_filled` says."""
        try:
            return int(os.getxattr(self.number, _FILLED))
        except (OSError, ValueError):
            return None

    @property
    def filled(self) -> int:
        """How many bytes, from its start, belong to it."""
        noted, size = self.noted, self.size
        return size if noted is None else min(noted, size)

    def note_filled(self, size: int) -> None:
        """What follows the first `size` bytes is left over from another file. Raises OSError."""
        os.setxattr(self.number, _FILLED, b"%d" % size)

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes; all of them belong to it."""
        os.ftruncate(self.number, size)
        with contextlib.suppress(OSError):  # most files have none
            os.removexattr(self.number, _FILLED)

    def sync(self) -> None:
        """Bring its bytes to disk."""
        os.fdatasync(self.number)

    def seal(self) -> None:
        """Bring bytes and mode to disk; it is never written again."""
        os.fchmod(self.number, DURABLE)
        os.fsync(self.number)

    def close_for_now(self) -> None:
        """It is never written again; that it comes to disk is left to the system, or to `seal`."""
        os.fchmod(self.number, UNSYNCED)

    def is_alone(self) -> bool:
        """Whether nobody else has the file open or mapped at all; as `is_still`, with a write lease."""
        return self._gets_lease(fcntl.F_WRLCK)

    def is_still(self) -> bool:
        """Whether nobody at all has the file open, or mapped, for writing.

        The kernel knows: it grants a read lease only then (fcntl(2), F_SETLEASE). False also where it
        cannot tell, as on many network file systems.
        """
        return self._gets_lease(fcntl.F_RDLCK)

    def _gets_lease(self, kind: int) -> bool:
        if on_overlayfs(self.number):  # a mapping holds the file below, of which a lease here says nothing
            return False
        with contextlib.suppress(OSError):
            # The signal to a holder of a lease ends a process, unless it is one that is ignored.
            fcntl.fcntl(self.number, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self.number, fcntl.F_SETLEASE, kind)
            fcntl.fcntl(self.number, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            return True
        return False
