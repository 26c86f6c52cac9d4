# SPDX-License-Identifier: Apache-2.0
"""Files at the far end, over SFTP (draft-ietf-secsh-filexfer-02 and OpenSSH's extensions)."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paramiko import SFTPAttributes, SFTPClient

_CHUNK = 1 << 15
_EXTENDED = 200  # SSH_FXP_EXTENDED
_DEEPEST = 8

Count = Callable[[int], None]  # that many bytes more


def find(sftp: SFTPClient, path: str) -> SFTPAttributes | None:
    """What is at `path`, not following a link; None if nothing is."""
    try:
        return sftp.lstat(path)
    except FileNotFoundError:
        return None


def is_folder(found: SFTPAttributes) -> bool:
    """Whether this is a folder, and not a link to one."""
    return stat.S_ISDIR(found.st_mode or 0)


def mode_of(found: SFTPAttributes) -> int:
    """Its permissions."""
    return stat.S_IMODE(found.st_mode or 0)


def list_tree(sftp: SFTPClient, folder: str, *, deep: int = _DEEPEST) -> dict[str, SFTPAttributes]:
    """Every file (and link, and whatever is no folder) below `folder`, by its relative name."""
    found = {}
    for entry in sftp.listdir_attr(folder):
        if not is_folder(entry):
            found[entry.filename] = entry
        elif deep:
            below = list_tree(sftp, posixpath.join(folder, entry.filename), deep=deep - 1)
            found |= {f"{entry.filename}/{name}": inner for name, inner in below.items()}
    return found


def read(sftp: SFTPClient, path: str, *, limit: int) -> bytes:
    """A file, or its first `limit + 1` bytes."""
    with sftp.open(path, "rb") as file:
        if limit > _CHUNK:
            file.prefetch(min(file.stat().st_size or 0, limit + 1))
        return file.read(limit + 1)


def write_new(sftp: SFTPClient, path: str, data: bytes, *, mode: int, count: Count) -> None:
    """Write a file that is not there yet; it has its mode before its first byte, and is synced."""
    with sftp.open(path, "wx", bufsize=0) as file:
        file.chmod(mode)
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            file.write(chunk)
            count(len(chunk))
        with contextlib.suppress(OSError):  # servers other than OpenSSH's may not have it
            sftp._request(_EXTENDED, "fsync@openssh.com", file.handle)  # type: ignore[attr-defined]


def make_folders(sftp: SFTPClient, path: str) -> None:
    """`mkdir -p`."""
    if not path.strip("/") or find_through(sftp, path) is not None:
        return
    make_folders(sftp, posixpath.dirname(path))
    sftp.mkdir(path, 0o755)


def find_through(sftp: SFTPClient, path: str) -> SFTPAttributes | None:
    """What is at `path`, links followed."""
    try:
        return sftp.stat(path)
    except FileNotFoundError:
        return None


def move(sftp: SFTPClient, source: str, target: str) -> None:
    """rename(2): fails where `target` is a folder with something in it."""
    try:
        sftp.posix_rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EACCES) or find(sftp, target) is not None:
            raise
        sftp.rename(source, target)  # a server without the extension


def remove_tree(sftp: SFTPClient, folder: str, *, deep: int = _DEEPEST) -> None:
    """Remove a folder and all in it, following no link."""
    for entry in sftp.listdir_attr(folder):
        path = posixpath.join(folder, entry.filename)
        if is_folder(entry) and deep:
            remove_tree(sftp, path, deep=deep - 1)
        else:
            sftp.remove(path)
    sftp.rmdir(folder)
