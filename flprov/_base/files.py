# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: private writes, atomic trees, locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_OVERLAYFS = 0x794C7630  # statfs(2)
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})  # FAT and exFAT, as on a USB stick


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: after a crash it holds the old bytes or the new ones.

    Raises:
        OSError: the disk is full, or the folder is missing or not ours to write.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """`write_atomic` for secrets: mode 0600 from the first byte on."""
    write_atomic(path, data, mode=0o600)


def name_file(partial: Path, target: Path) -> None:
    """Give `partial` the name `target`, which must be free. The name `partial` may be left.

    Raises:
        FileExistsError: it is not.
        OSError: the file system refuses.
    """
    try:
        os.link(partial, target)  # unlike a rename, it fails when the name is taken
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        partial.replace(target)


def sync_tree(folder: Path) -> None:
    """Bring everything under `folder` to disk in one call (syncfs), not file by file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc().syncfs(descriptor) != 0:
            raise _failure(folder)
    finally:
        os.close(descriptor)


def write_tree(folder: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write `files` (relative name -> bytes, mode) under a new `folder`, without syncing.

    The caller syncs the whole with `sync_tree` and then renames it into place.
    """
    folder.mkdir(mode=0o755)
    made = {""}
    for name, (data, mode) in files.items():
        inside, _, _ = name.rpartition("/")
        if inside not in made:
            (folder / inside).mkdir(mode=0o755, parents=True, exist_ok=True)
            made.add(inside)
        path = f"{folder}/{name}"  # no Path: kits by the thousand are written here
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def replace_tree(new: Path, target: Path) -> None:
    """Put the folder `new` where `target` is; an old `target` is removed afterwards."""
    if not target.exists():
        new.rename(target)
        return
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    try:
        _exchange(new, target)
        new.rename(old)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        target.rename(old)
        new.rename(target)
    import shutil  # late, as ctypes is: commands that write no tree do without both

    shutil.rmtree(old)


def _exchange(left: Path, right: Path) -> None:
    """renameat2(RENAME_EXCHANGE): both names change hands in one step."""
    at_cwd, exchange = -100, 2
    if _libc().renameat2(at_cwd, os.fsencode(left), at_cwd, os.fsencode(right), exchange) != 0:
        raise _failure(right)


def on_overlayfs(descriptor: int) -> bool:
    """Whether an open file lies on overlayfs, as in a container's own layer; also when nobody can tell."""
    import ctypes

    found = (ctypes.c_long * 32)()  # struct statfs, whose first member is the type of the file system
    return _libc().fstatfs(descriptor, found) != 0 or found[0] == _OVERLAYFS


@functools.cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _failure(path: Path) -> OSError:
    """What the last call of `_libc` says went wrong."""
    import ctypes

    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(path))


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` while inside; the file's text is the holder's pid.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
