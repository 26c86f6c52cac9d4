# SPDX-License-Identifier: Apache-2.0
"""The write-ahead log has room before it is needed, and zeros behind it harm nobody."""

from __future__ import annotations

import sqlite3
from itertools import pairwise

import pytest

from flprov._base import SystemClock
from flprov.store import Put, Row, open_store

ROW = Row(who="server", what="job.start", object="job-1")


def log_of(folder):
    return folder / "store.db-wal"


async def commit(store, first, last):
    for number in range(first, last):
        await store.commit([Put("count", "a", {"n": number})], ROW)


async def test_most_commits_do_not_make_the_log_longer(tmp_path):
    store = open_store(tmp_path, clock=SystemClock())
    sizes = []
    for number in range(100):
        await commit(store, number, number + 1)
        sizes.append(log_of(tmp_path).stat().st_size)
    await store.close()
    grown = sum(later > earlier for earlier, later in pairwise(sizes))
    assert 0 < grown <= 12
    assert sizes[-1] <= 2 * 100 * 8 * 4120  # a few pages each, and as much again


async def test_a_store_opens_over_zeros_behind_its_log(tmp_path):
    """As a killed process leaves them: nothing is closed, and all that was committed is there."""
    store = open_store(tmp_path / "killed", clock=SystemClock())
    await commit(store, 0, 20)
    left = tmp_path / "left"
    left.mkdir()
    for path in (tmp_path / "killed").glob("store.db*"):
        (left / path.name).write_bytes(path.read_bytes())
    await store.close()
    assert log_of(left).read_bytes().endswith(bytes(4096))
    again = open_store(left, clock=SystemClock())
    assert again.get("count", "a") == {"n": 19}
    assert again.head == 20
    before = log_of(left).stat().st_size
    await commit(again, 20, 22)
    assert log_of(left).stat().st_size <= before + (1 << 20)
    assert again.get("count", "a") == {"n": 21}
    await again.close()


async def test_a_log_that_cannot_be_made_longer_hinders_no_commit(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flprov.store.growth._lengthen", refuse)
    store = open_store(tmp_path, clock=SystemClock())
    await commit(store, 0, 3)
    await store.close()
    with sqlite3.connect(tmp_path / "store.db") as database:
        assert database.execute("SELECT count(*) FROM log").fetchone() == (3,)
    database.close()


@pytest.mark.parametrize("held", [True, False])
async def test_on_a_full_disk_the_rest_of_it_is_for_commits(tmp_path, monkeypatch, held):
    asked = []
    monkeypatch.setattr("flprov.store.growth._lengthen", lambda _path, count: asked.append(count) or 0)
    monkeypatch.setattr("flprov.store.reserve.Reserve.hold", lambda _: held)
    monkeypatch.setattr("flprov.store.reserve.Reserve.held", held)
    store = open_store(tmp_path, clock=SystemClock())
    await store.commit([Put("count", "a", {"n": 1})], ROW, urgent=True)
    await store.close()
    assert bool(asked) is held
