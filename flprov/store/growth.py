# SPDX-License-Identifier: Apache-2.0
"""Room for the write-ahead log before it is needed: a file that grows costs each sync more than its bytes.

The sync of a file that has become longer brings its size to disk as well, and waits for the journal where the
file system has one (ext4 without, 8 KB on a quiet disk: 0.19 to 0.24 ms instead of 0.12 to 0.15). So whenever
SQLite has made its log longer, zeros are written behind it, and the next commits take their place. SQLite
reads its log up to the first frame without the salt of its header, so that zeros are its end; only our one
writer writes to it, and SQLite's locks are on other files.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MOST = 1 << 20  # bytes at a time


class Growth:
    """Follows the log of one database, for its one writer."""

    def __init__(self, database: Path) -> None:
        self._log = database.with_name(f"{database.name}-wal")
        self._size = 0  # of the file, when we saw it last
        with contextlib.suppress(OSError):  # there is none before the first commit
            self._size = self._log.stat().st_size

    def follow(self) -> None:
        """After a commit: if that has made the log longer, make it longer still, by as much as there is."""
        with contextlib.suppress(OSError):  # of a full disk the commits complain
            size = self._log.stat().st_size
            if size > self._size:
                size += _lengthen(self._log, min(size, _MOST))
            self._size = size


def _lengthen(path: Path, count: int) -> int:
    """Write so many zeros behind a file, on disk when this returns; how many it were."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        written = os.write(descriptor, bytes(count))
        os.fdatasync(descriptor)
        return written
    finally:
        os.close(descriptor)
