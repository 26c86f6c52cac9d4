# SPDX-License-Identifier: Apache-2.0
"""Opening a store: modes, versions, damage."""

import contextlib
import os
import sqlite3
import stat

import pytest

from flprov.errors import LocalError, StateDamaged
from flprov.store import Put, Row, open_store, schema, sqlite, verify_chain
from flprov.testing.clock import START, FakeClock

ROW = Row(who="server", what="job.start", object="job-1")


async def fill(folder, count=3):
    store = open_store(folder, clock=FakeClock())
    for n in range(count):
        await store.commit([Put("job", str(n), {"x": "x" * 2000})], ROW)
    return store


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def test_all_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        store = await fill(tmp_path / "state")
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        files = ("store.db", "store.db-shm", "store.db-wal", "store.reserve")
        assert modes(tmp_path / "state") == dict.fromkeys(files, 0o600)
        await store.close()
    finally:
        os.umask(before)


async def test_modes_that_somebody_loosened_are_tightened(tmp_path):
    await (await fill(tmp_path)).close()
    (tmp_path / "store.db").chmod(0o644)
    tmp_path.chmod(0o755)
    await open_store(tmp_path, clock=FakeClock()).close()
    assert modes(tmp_path)["store.db"] == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


async def test_reopened_store_goes_on_where_it_was(tmp_path):
    await (await fill(tmp_path)).close()
    store = await fill(tmp_path, 2)
    assert store.head == 5
    assert verify_chain(store.rows()) is None
    await store.close()


async def test_time_of_a_row_is_the_clocks_to_the_millisecond(tmp_path):
    clock = FakeClock()
    store = open_store(tmp_path, clock=clock)
    clock.advance(1.2345)
    await store.commit([], ROW)
    clock.jump(-3600)
    await store.commit([], ROW)
    assert [(row.at - START).total_seconds() for row in store.rows()] == [1.234, -3598.766]
    assert verify_chain(store.rows()) is None
    await store.close()


async def test_commits_sync_to_disk_in_wal_mode(tmp_path):
    store = await fill(tmp_path)
    writing = store._writer._connection
    assert writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert writing.execute("PRAGMA synchronous").fetchone() == (2,)
    await store.close()


# ---- versions ------------------------------------------------------------------------------

NOW = len(schema.SCHEMA)  # the version that this flprov writes
NEXT = (*schema.SCHEMA, ("ALTER TABLE log ADD COLUMN note TEXT", "UPDATE records SET value = '{\"new\":1}'"))


async def test_older_store_is_brought_forward_and_its_copy_kept(tmp_path):
    await (await fill(tmp_path)).close()
    schema.open_database(tmp_path / "store.db", NEXT).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as new:
        assert new.execute("PRAGMA user_version").fetchone() == (NOW + 1,)
        assert new.execute("SELECT DISTINCT value FROM records").fetchall() == [('{"new":1}',)]
        assert new.execute("SELECT count(*), count(note) FROM log").fetchone() == (3, 0)
    assert modes(tmp_path)[f"store.v{NOW}.backup"] == 0o600
    (tmp_path / "old").mkdir()
    (tmp_path / f"store.v{NOW}.backup").rename(tmp_path / "old/store.db")
    old = open_store(tmp_path / "old", clock=FakeClock())
    assert (old.head, len(old.load("job")), verify_chain(old.rows())) == (3, 3, None)
    await old.close()


async def test_step_that_fails_leaves_the_older_store_whole(tmp_path):
    await (await fill(tmp_path)).close()
    broken = (*schema.SCHEMA, ("DELETE FROM log", "nonsense"))
    for _ in range(2):  # the copy of the first try is in nobody's way
        with pytest.raises(sqlite3.OperationalError):
            schema.open_database(tmp_path / "store.db", broken)
    store = open_store(tmp_path, clock=FakeClock())
    assert store.head == 3
    await store.close()


async def test_current_store_is_not_copied(tmp_path):
    await (await fill(tmp_path)).close()
    await open_store(tmp_path, clock=FakeClock()).close()
    assert list(tmp_path.glob("*.backup")) == []


async def test_newer_store_is_refused_naming_both_versions_and_left_as_it_was(tmp_path):
    await (await fill(tmp_path)).close()
    schema.open_database(tmp_path / "store.db", NEXT).close()
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(StateDamaged, match=rf"version is {NOW + 1}.* up to {NOW}") as caught:
        open_store(tmp_path, clock=FakeClock())
    assert "newer flprov" in caught.value.hint
    assert (tmp_path / "store.db").read_bytes() == before


# ---- damage --------------------------------------------------------------------------------


def refuse(folder):
    with pytest.raises(StateDamaged) as caught:
        open_store(folder, clock=FakeClock())
    assert str(folder / "store.db") in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


def test_file_that_is_no_database_is_refused_and_kept(tmp_path):
    (tmp_path / "store.db").write_text("these are my holiday plans\n" * 100)
    refuse(tmp_path)
    assert (tmp_path / "store.db").read_text().startswith("these are my")


def test_database_of_another_program_is_refused(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as other:
        other.execute("CREATE TABLE cookies (name)")
    assert "not a flprov store" in refuse(tmp_path)


@pytest.mark.parametrize("place", [0, 18, 100, 4096 + 3, 2 * 4096 + 3])
async def test_overwritten_bytes_are_found_on_opening(tmp_path, place):
    await (await fill(tmp_path, 30)).close()
    with (tmp_path / "store.db").open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 64)
    refuse(tmp_path)


@pytest.mark.parametrize("size", [1, 100, 4096, 5000, 3 * 4096])
async def test_cut_off_database_is_found_on_opening(tmp_path, size):
    await (await fill(tmp_path, 30)).close()
    os.truncate(tmp_path / "store.db", size)
    refuse(tmp_path)


@pytest.mark.parametrize("size", [None, 0])
async def test_lost_database_beside_its_log_is_found_on_opening(tmp_path, size):
    (tmp_path / "store.db-wal").write_bytes(b"x" * 100)
    if size is not None:
        (tmp_path / "store.db").write_bytes(b"")
    refuse(tmp_path)
    assert (tmp_path / "store.db-wal").stat().st_size == 100


async def test_forged_last_row_is_found_on_opening(tmp_path):
    await (await fill(tmp_path)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as forger:
        forger.execute("UPDATE log SET line = replace(line, 'server', 'nobody') WHERE ix = 3")
    assert "row 3" in refuse(tmp_path)


async def test_text_that_is_not_unicode_is_damage(tmp_path):
    await (await fill(tmp_path)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as forger:
        forger.execute("UPDATE records SET value = CAST(X'7BFF7D' AS TEXT) WHERE id = '1'")
    store = open_store(tmp_path, clock=FakeClock())
    with pytest.raises(StateDamaged, match="not Unicode"):
        store.load("job")
    await store.close()


async def test_unreadable_row_and_record_are_named_when_read(tmp_path):
    await (await fill(tmp_path)).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as forger:
        forger.execute("UPDATE log SET line = '{}' WHERE ix = 1")
        forger.execute("UPDATE records SET value = '[' WHERE id = '1'")
    store = open_store(tmp_path, clock=FakeClock())
    with pytest.raises(StateDamaged, match="row 1 of the log"):
        store.rows()
    with pytest.raises(StateDamaged, match="a record cannot be read"):
        store.load("job")
    await store.close()


def test_folder_in_the_stores_place_is_refused(tmp_path):
    (tmp_path / "store.db").mkdir()
    with pytest.raises(LocalError, match=r"store\.db"):
        open_store(tmp_path, clock=FakeClock())


def test_link_in_the_stores_place_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "store.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match=r"store\.db"):
        open_store(tmp_path, clock=FakeClock())
    assert (tmp_path / "elsewhere").read_bytes() == b""


async def test_read_after_close_is_refused(tmp_path):
    store = sqlite.SQLiteStore(tmp_path, clock=FakeClock())
    await store.close()
    with pytest.raises(LocalError, match="closed"):
        store.load("job")
