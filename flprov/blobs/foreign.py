# SPDX-License-Identifier: Apache-2.0
"""Files in a folder that somebody else writes to: what is believed of them, and how they leave it."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from blake3 import blake3

from flprov.blobs.digests import CHUNK
from flprov.blobs.disk import OpenFile
from flprov.errors import NotFound, ProtocolError

_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG})


def open_foreign(path: Path, limit: int, *, named_twice: bool = False) -> OpenFile:
    """A file in somebody else's folder, if it is one: no link, no pipe, no other file's second name.

    Raises:
        NotFound: there is no such file.
        ProtocolError: it is something else, or larger than `limit`.
    """
    try:
        file = OpenFile(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except ValueError as error:  # a zero byte
        raise ProtocolError(f"{path.name!r} is not the name of a file") from error
    except OSError as error:
        if error.errno not in _NOT_A_FILE:
            raise
        raise ProtocolError(f"{path.name!r} is not a readable regular file") from error
    found = os.fstat(file.number)
    if not stat.S_ISREG(found.st_mode):
        raise ProtocolError(f"{path.name!r} is not a regular file")
    if found.st_nlink != 1 and not named_twice:
        raise ProtocolError(f"{path.name!r} is a hard link to a file that has other names")
    if found.st_size > limit:
        raise _too_large(path, limit)
    return file


def _too_large(path: Path, limit: int) -> ProtocolError:
    return ProtocolError(f"{path.name!r} is larger than the limit of {limit} bytes")


def copy_foreign(source: OpenFile, copy: OpenFile, path: Path, limit: int) -> tuple[str, int]:
    """Digest and size of what was written."""
    hasher, size = blake3(), 0
    for data in source.read_chunks(0, CHUNK):
        copy.write(data, size)
        size += len(data)
        if size > limit:  # it has grown since we looked
            raise _too_large(path, limit)
        hasher.update(data)
    return hasher.hexdigest(), size


def take_apart(path: Path, apart: Path) -> bool:
    """Move a regular file out of somebody else's folder; false when that was done before.

    Raises:
        NotFound: there is no such file, and was none.
        ProtocolError: it is something else than a file.
        OSError: EXDEV when the two folders are on different disks.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ProtocolError(f"{path.name!r} is not a regular file")
        path.rename(apart)
    except FileNotFoundError:
        if not os.path.lexists(apart):
            raise NotFound(f"there is no file {path}") from None
        return False
    return True


def remove_foreign(path: Path) -> None:
    """Remove what was moved, whatever it has turned out to be."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder, put there in the moment between a look and the move
        shutil.rmtree(path, ignore_errors=True)
