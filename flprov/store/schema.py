# SPDX-License-Identifier: Apache-2.0
"""The database file: made private, checked when opened, brought forward from older versions.

`SCHEMA[n]` holds the statements that turn version n into version n + 1. A step that has been
released never changes; a new one is added at the end. Before an older store is brought forward, a
copy of it is left beside it as `store.v<N>.backup`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from flprov._base import sync_folder
from flprov.errors import StateDamaged
from flprov.store.failures import RESTORE_HINT

Steps = Sequence[Sequence[str]]

SCHEMA: Steps = (
    (
        "CREATE TABLE log (ix INTEGER PRIMARY KEY, at TEXT NOT NULL, line TEXT NOT NULL,"
        " previous TEXT NOT NULL, digest TEXT NOT NULL)",
        "CREATE TABLE records (kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL,"
        " PRIMARY KEY (kind, id)) WITHOUT ROWID",
    ),
    (  # rows are found by what stands in them; most have the outcome "ok", which is not worth an index
        *(
            f"ALTER TABLE log ADD COLUMN {name} TEXT GENERATED ALWAYS AS (json_extract(line, '$.{name}'))"
            for name in ("what", "who", "object", "outcome")
        ),
        "CREATE INDEX log_what ON log (what)",
        "CREATE INDEX log_who ON log (who)",
        "CREATE INDEX log_object ON log (object)",
        "CREATE INDEX log_outcome ON log (outcome) WHERE outcome <> 'ok'",
    ),
)

# Pages of the write-ahead log after which a commit brings them into the database, and waits for that. A round
# writes some twenty: with SQLite's own 1,000 each fiftieth round stood still for it.
_CHECKPOINT = 4_000
_APPLICATION_ID = 0x666C7072  # "flpr": tells our files from other programs' databases
_MAGIC = b"SQLite format 3\0"


def open_database(path: Path, steps: Steps = SCHEMA) -> sqlite3.Connection:
    """The store's database at the newest version, ready for its one writer.

    Raises:
        StateDamaged: it is not a store of ours, it is damaged, or a newer flprov wrote it.
        sqlite3.Error: SQLite fails in another way.
        OSError: so does the file system.
    """
    _make_private(path)
    connection = connect(path)
    try:
        _bring_forward(connection, path, steps)
    except BaseException:
        connection.close()
        raise
    return connection


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions, which any thread may use."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")  # with WAL: one sync per transaction
    return connection


def _make_private(path: Path) -> None:
    """Have an empty file of mode 0600 before SQLite makes one; -wal and -shm take its mode."""
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True)
        sync_folder(path.parent.parent)
    path.parent.chmod(0o700)
    _verify_beginning(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    sync_folder(path.parent)


def _verify_beginning(path: Path) -> None:
    """What SQLite would take for an empty database and overwrite, though something was there."""
    beginning = b""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(len(_MAGIC))
    if beginning not in (b"", _MAGIC):
        raise StateDamaged(f"{path} is damaged or not a flprov store", hint=RESTORE_HINT)
    log = path.with_name(f"{path.name}-wal")
    if not beginning and log.exists() and log.stat().st_size:
        raise StateDamaged(f"{path} is missing or empty, but its log {log.name} is not", hint=RESTORE_HINT)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _bring_forward(connection: sqlite3.Connection, path: Path, steps: Steps) -> None:
    version = _pragma(connection, "user_version")
    fresh = version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    if not fresh:
        _verify_ours(connection, path, version, len(steps))
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA journal_size_limit={64 << 20}")
    connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT}")
    if version == len(steps):
        return
    if not fresh:
        _back_up(connection, path.with_name(f"{path.stem}.v{version}.backup"))
    connection.execute("BEGIN IMMEDIATE")
    for statement in (statement for step in steps[version:] for statement in step):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={len(steps)}")
    connection.execute("COMMIT")


def _verify_ours(connection: sqlite3.Connection, path: Path, version: int, known: int) -> None:
    if _pragma(connection, "application_id") != _APPLICATION_ID:
        raise StateDamaged(f"{path} is a database, but not a flprov store", hint=RESTORE_HINT)
    if version > known:
        raise StateDamaged(
            f"{path} was written by a newer flprov: its schema version is {version}, "
            f"this flprov knows versions up to {known}",
            hint="start it with that newer flprov again",
        )
    complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if complaint != "ok":
        raise StateDamaged(f"{path} is damaged: {complaint.strip()}", hint=RESTORE_HINT)


def _back_up(connection: sqlite3.Connection, backup: Path) -> None:
    """A whole copy of the store at `backup`, on disk before anything is changed."""
    partial = backup.with_name(f"{backup.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        connection.backup(copy)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(backup)
    sync_folder(backup.parent)
