# SPDX-License-Identifier: Apache-2.0
"""Both stores pass the same suite."""

import asyncio

import pytest

from flprov.store import MemoryStore, Put, Row, open_store
from flprov.testing.clock import FakeClock
from flprov.testing.store_conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self):
        return MemoryStore(clock=FakeClock())


class TestStoreOnDisk(StoreConformance):
    @pytest.fixture
    async def store(self, tmp_path):
        store = open_store(tmp_path / "state", clock=FakeClock())
        yield store
        await store.close()


ROW = Row(who="site", what="task.answer", object="j1/1")


async def test_what_is_only_written_costs_no_sync_and_is_there(tmp_path):
    store = open_store(tmp_path / "state", clock=FakeClock())
    await store.write([Put("task", "j1", {"tries": 1})])
    assert (store.syncs, store.get("task", "j1")) == (0, {"tries": 1})
    await store.commit([], ROW)
    assert store.syncs == 1
    await store.write([Put("task", "j1", {"tries": 2})])
    assert store.syncs == 1
    await store.close()
    again = open_store(tmp_path / "state", clock=FakeClock())
    assert again.get("task", "j1") == {"tries": 2}
    await again.close()


async def test_commits_that_wait_together_share_a_sync(tmp_path):
    store = open_store(tmp_path / "state", clock=FakeClock())
    await asyncio.gather(*(store.commit([], ROW) for _ in range(200)))
    assert store.head == 200
    assert store.syncs < 100  # one for the first, and one for all that came while it was written, as a rule
    await store.close()
