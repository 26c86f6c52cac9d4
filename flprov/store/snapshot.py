# SPDX-License-Identifier: Apache-2.0
"""A consistent copy of a store, while another process may be writing to it; and what is in one."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flprov.errors import NotFound, StateDamaged
from flprov.store.chain import GENESIS
from flprov.store.failures import RESTORE_HINT, store_errors
from flprov.store.schema import SCHEMA, connect

STORE_FILE = "store.db"
NEWEST_SCHEMA = len(SCHEMA)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a copy of a store holds."""

    schema: int  # version of its tables
    head: int  # index of the last row of the log
    digest: str  # of that row


def copy_store(folder: Path, target: Path) -> Snapshot:
    """Copy the store in `folder` to the new file `target`, as it is at one moment.

    One read transaction: in WAL mode the server's writer is not held up, and what it commits meanwhile
    is not in the copy.

    Raises:
        NotFound: there is no store.
        StateDamaged: it is damaged.
        LocalError: it cannot be read, or the copy not written.
    """
    source = folder / STORE_FILE
    if not source.is_file():
        raise NotFound(f"there is no store in {folder}: no server has run there")
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    with (
        store_errors(source),
        contextlib.closing(connect(source)) as original,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        original.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
    return describe_copy(target)


def describe_copy(path: Path) -> Snapshot:
    """What a copied store holds. Raises StateDamaged."""
    with store_errors(path), contextlib.closing(_open(path)) as connection:
        complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if complaint != "ok":
            raise StateDamaged(f"{path} is damaged: {complaint.strip()}", hint=RESTORE_HINT)
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        last = connection.execute("SELECT ix, digest FROM log ORDER BY ix DESC LIMIT 1").fetchone()
        index, digest = last or (0, GENESIS)
        return Snapshot(schema=version, head=int(index), digest=str(digest))


def copied_records(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Kind, id and value of every record in a copied store. Raises StateDamaged."""
    with store_errors(path), contextlib.closing(_open(path)) as connection:
        for kind, id_, value in connection.execute("SELECT kind, id, value FROM records"):
            try:
                yield kind, id_, dict(json.loads(value))
            except (ValueError, TypeError) as error:
                raise StateDamaged(
                    f"{path} is damaged: a record cannot be read", hint=RESTORE_HINT
                ) from error


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{path.absolute().as_posix().replace('?', '%3f')}?mode=ro", uri=True)
