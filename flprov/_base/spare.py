# SPDX-License-Identifier: Apache-2.0
"""Spare files: what is no longer needed, left in a folder for whoever writes the next large file there.

To write over a file costs a tenth of what a new one costs: its pages are in memory and its blocks are on the
disk. On a virtual machine whose host takes free memory back, it is less still.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

LEAST_SPARE = 256 << 10  # bytes; smaller files are not worth it
_PREFIX, _SUFFIX = ".flprov-", ".spare"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OVER = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


def spare_name() -> str:
    """A new name for a spare file."""
    return f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"


def is_spare(name: str) -> bool:
    """Whether a file of this name is a spare one."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def open_to_fill(path: Path, size: int) -> int:
    """Open the new file `path`, of `size` bytes, all of which are to be written: it may hold another file's.

    Returns:
        Its descriptor; to be closed by the caller.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be made, or has no room.
    """
    number = _open_spare(path) if size >= LEAST_SPARE else -1
    if number < 0:
        number = os.open(path, _NEW, 0o600)
    try:
        if os.fstat(number).st_size > size:
            os.ftruncate(number, size)
        os.posix_fallocate(number, 0, size)
    except BaseException:
        os.close(number)
        path.unlink()
        raise
    return number


def _open_spare(path: Path) -> int:
    """A spare file of the folder under its new name; -1 when there is none."""
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists already")
    for found in path.parent.iterdir():
        if is_spare(found.name):
            with contextlib.suppress(OSError):  # another thread was faster
                found.rename(path)
                return os.open(path, _OVER)
    return -1
