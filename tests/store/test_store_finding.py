# SPDX-License-Identifier: Apache-2.0
"""Whoever seeks in the log keeps nobody waiting but those who seek."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flprov.errors import LocalError
from flprov.store import RowFilter, open_store, sqlite
from flprov.testing.clock import FakeClock

MANY = 100  # more than asyncio has threads


@pytest.fixture
def released(monkeypatch):
    """Searches find nothing, and that only once this event is set."""
    event = threading.Event()

    def find_rows(*_args, **_kwargs):
        event.wait()
        return []

    monkeypatch.setattr(sqlite, "find_rows", find_rows)
    yield event
    event.set()


async def test_many_searches_leave_the_threads_of_all_others_free(tmp_path, released):
    store = open_store(tmp_path, clock=FakeClock())
    seeking = [asyncio.create_task(store.find(RowFilter())) for _ in range(MANY)]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await asyncio.to_thread(lambda: "free") == "free"
    released.set()
    assert await asyncio.gather(*seeking) == [[]] * MANY
    await store.close()


async def test_searches_that_wait_when_the_store_is_closed_are_told(tmp_path, released):
    store = open_store(tmp_path, clock=FakeClock())
    seeking = [asyncio.create_task(store.find(RowFilter())) for _ in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    released.set()
    await closing
    found = await asyncio.gather(*seeking, return_exceptions=True)
    assert all(isinstance(one, LocalError) for one in found[1:])
    with pytest.raises(LocalError, match="closed"):
        await store.find(RowFilter())
