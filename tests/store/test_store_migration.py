# SPDX-License-Identifier: Apache-2.0
"""A store that an earlier flprov wrote is brought forward, with a copy of it kept."""

import contextlib
import sqlite3

import pytest

from flprov._base import to_iso
from flprov.errors import StateDamaged
from flprov.store import GENESIS, Put, Row, RowFilter, open_store, schema, verify_chain
from flprov.store.chain import digest_row
from flprov.testing.clock import START, FakeClock

# What version 1 wrote, spelled as it was then: these statements never change.
V1 = (
    "CREATE TABLE log (ix INTEGER PRIMARY KEY, at TEXT NOT NULL, line TEXT NOT NULL,"
    " previous TEXT NOT NULL, digest TEXT NOT NULL)",
    "CREATE TABLE records (kind TEXT NOT NULL, id TEXT NOT NULL, value TEXT NOT NULL,"
    " PRIMARY KEY (kind, id)) WITHOUT ROWID",
)
LINE = '{"data":{},"object":"job-%d","outcome":"%s","reason":"","what":"%s","who":"server"}'


def write_v1(folder, rows=30):
    """A store as version 1 left it."""
    folder.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode=WAL")
        for statement in (*V1, "PRAGMA application_id=1718382706", "PRAGMA user_version=1"):
            old.execute(statement)
        old.execute("INSERT INTO records VALUES ('job', 'a', '{\"state\":\"queued\"}')")
        previous = GENESIS
        for index in range(1, rows + 1):
            denied = index % 10 == 0
            line = LINE % (index % 3, "denied" if denied else "ok", "call" if denied else "job.submit")
            digest = digest_row(index, to_iso(START), line.encode(), previous)
            old.execute(
                "INSERT INTO log VALUES (?, ?, ?, ?, ?)", (index, to_iso(START), line, previous, digest)
            )
            previous = digest


async def test_store_of_version_1_is_brought_forward_and_goes_on(tmp_path):
    write_v1(tmp_path)
    before = (tmp_path / "store.db").read_bytes()
    store = open_store(tmp_path, clock=FakeClock())
    assert (store.head, store.load("job")) == (30, {"a": {"state": "queued"}})
    assert await store.commit([Put("job", "b", {})], Row(who="server", what="job.end", object="job-1")) == 31
    assert verify_chain(store.rows()) is None
    denied = await store.find(RowFilter(outcome="denied"))
    assert [row.index for row in denied] == [10, 20, 30]
    found = await store.find(RowFilter(object="job-1", what="job."))
    assert [row.index for row in found] == [1, 4, 7, 13, 16, 19, 22, 25, 28, 31]
    await store.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.v1.backup")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT count(*) FROM log").fetchone() == (30,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert len(before) <= (tmp_path / "store.v1.backup").stat().st_size


async def test_store_that_was_brought_forward_is_as_one_made_anew(tmp_path):
    """Otherwise a later step would meet two different schemas."""
    write_v1(tmp_path / "old")
    for name in ("old", "new"):
        await open_store(tmp_path / name, clock=FakeClock()).close()
    schemas = []
    for name in ("old", "new"):
        with contextlib.closing(sqlite3.connect(tmp_path / name / "store.db")) as found:
            schemas.append(found.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall())
            assert found.execute("PRAGMA user_version").fetchone() == (len(schema.SCHEMA),)
    assert schemas[0] == schemas[1]


def test_step_that_was_released_stays_as_it_was():
    assert schema.SCHEMA[0] == V1


async def test_older_flprov_refuses_the_newer_store_by_name(tmp_path):
    """What an operator reads who goes back to the version before."""
    await open_store(tmp_path, clock=FakeClock()).close()
    with pytest.raises(StateDamaged, match=r"newer flprov: its schema version is 2, .* up to 1"):
        schema.open_database(tmp_path / "store.db", schema.SCHEMA[:1])


async def test_indexes_are_used(tmp_path):
    """A seek, however long the log: without it every question would read all rows."""
    await open_store(tmp_path, clock=FakeClock()).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as found:
        for condition, index in (
            ("object = 'a'", "log_object"),
            ("who = 'a'", "log_who"),
            ("what = 'a'", "log_what"),
            ("outcome = 'denied' AND outcome <> 'ok'", "log_outcome"),
        ):
            query = f"EXPLAIN QUERY PLAN SELECT ix FROM log WHERE ix >= 1 AND {condition} ORDER BY ix"
            [plan] = found.execute(query).fetchall()
            assert f"USING INDEX {index}" in plan[3] or f"USING COVERING INDEX {index}" in plan[3], plan
