# SPDX-License-Identifier: Apache-2.0
"""Reading files that somebody may have tampered with: once, without following links, bounded."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import field
from pathlib import Path

from flprov._base import dataclass


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file as it lies on this disk."""

    data: bytes = field(repr=False)
    mode: int
    owner: int  # uid


NOT_OURS = "cannot be read by this user"


class Unreadable(Exception):
    """Why one file cannot be taken as it is, as the end of a sentence."""


def read_stored(path: Path, *, limit: int) -> StoredFile:
    """Open one file once, without following a link at its name, and read it whole."""
    try:
        # O_NONBLOCK: a named pipe in a file's place must not keep us waiting for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(_words_for(error)) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("is not a regular file")
        if found.st_size > limit:
            raise Unreadable(f"is larger than {limit >> 20} MiB")
        data = os.read(descriptor, found.st_size + 1)
    except OSError as error:
        raise Unreadable(_words_for(error)) from error
    finally:
        os.close(descriptor)
    return StoredFile(data=data, mode=stat.S_IMODE(found.st_mode), owner=found.st_uid)


def _words_for(error: OSError) -> str:
    words = {
        errno.ENOENT: "is missing",
        errno.ENOTDIR: "is missing",
        errno.ELOOP: "was replaced by a symbolic link",
        errno.EACCES: NOT_OURS,
        errno.EISDIR: "is a folder and not a file",
    }
    return words.get(error.errno or 0, f"cannot be read ({error.strerror})")


def find_extra(folder: Path, expected: Iterable[str]) -> list[str]:
    """What lies in a kit folder and does not belong there, one sentence's end each."""
    names = set(expected)
    folders = {name.partition("/")[0] for name in names if "/" in name}
    problems = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in folders:
            problems += _find_extra_below(entry, names)
        elif entry.name not in names:
            problems.append(f"{entry.name} is not part of this kit")
    return problems


def _find_extra_below(folder: os.DirEntry[str], names: set[str]) -> list[str]:
    if folder.is_symlink():
        return [f"{folder.name}/ was replaced by a symbolic link"]
    if not folder.is_dir():
        return [f"{folder.name} is not a folder"]
    try:
        found = sorted(f"{folder.name}/{entry.name}" for entry in os.scandir(folder))
    except OSError as error:
        return [f"{folder.name}/ {_words_for(error)}"]
    return [f"{name} is not part of this kit" for name in found if name not in names]
