# SPDX-License-Identifier: Apache-2.0
"""SQLite's errors in our words."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from flprov.errors import FlprovError, LocalError, StateDamaged

SPACE_HINT = "free some space on that disk; flprov goes on by itself"
RESTORE_HINT = (
    "put a backup of the state folder in its place, or move the folder away to start with an empty one"
)

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
_NO_SPACE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})


def _primary_code(error: sqlite3.Error) -> int:
    """Without the details that SQLite puts in the upper bytes of a result code."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def may_lack_space(error: sqlite3.Error) -> bool:
    """Whether more room on the disk may cure it; some full disks are reported as I/O errors."""
    return _primary_code(error) in _NO_SPACE


def describe(error: sqlite3.Error, path: Path) -> FlprovError:
    """The same failure for a stranger; the caller keeps `error` as the cause."""
    code = _primary_code(error)
    if code in _DAMAGED:
        return StateDamaged(f"{path} is damaged or not a flprov store: {error}", hint=RESTORE_HINT)
    if code == sqlite3.SQLITE_FULL:
        return LocalError(f"{path} cannot be written: the disk is full", hint=SPACE_HINT)
    return LocalError(f"{path} cannot be used: {error}", hint=f"look at the disk that holds {path.parent}")


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Inside, what SQLite and the file system raise about `path` comes out in our words."""
    try:
        yield
    except sqlite3.Error as error:
        raise describe(error, path) from error
    except OSError as error:
        raise LocalError(f"{path} cannot be used: {error.strerror or error}") from error
