# SPDX-License-Identifier: Apache-2.0
"""A state folder of another version: a newer one is refused by name, an older one is brought forward."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from cli_process import run_process

from flprov._base import SystemClock
from flprov.store import Row, open_store

PARTIES = {"server": ("server", "start"), "site-1": ("site", "start")}


def write_state(state: Path, version: int) -> Path:
    """A store with a row in it, which says that it is of this version."""

    async def write() -> None:
        store = open_store(state, clock=SystemClock())
        await store.commit([], Row(who="server", what="server.start", object="server"))
        await store.close()

    asyncio.run(write())
    with contextlib.closing(sqlite3.connect(state / "store.db", isolation_level=None)) as file:
        file.execute(f"PRAGMA user_version={version}")
    return state / "store.db"


@pytest.mark.parametrize("name", PARTIES)
def test_newer_state_is_refused_by_name_and_left_alone(kits, tmp_path, name):
    kit = Path(shutil.copytree(kits / name, tmp_path / name))
    (tmp_path / f"{name}.local").mkdir(mode=0o700)
    for file in (kits / f"{name}.local").glob("*.yml*"):
        shutil.copy(file, tmp_path / f"{name}.local")
    path = write_state(tmp_path / f"{name}.local" / "state", 99)
    before = path.read_bytes()
    ran = run_process(*PARTIES[name], str(kit), folder=tmp_path)
    assert ran.code == 1
    assert (
        "was written by a newer flprov: its schema version is 99, this flprov knows versions up to 2"
        in ran.err
    )
    assert "start it with that newer flprov again" in ran.err
    assert "Traceback" not in ran.err
    assert path.read_bytes() == before
