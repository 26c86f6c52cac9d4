# SPDX-License-Identifier: Apache-2.0
"""Both stores pass the same suite."""

import pytest

from flprov.store import MemoryStore, open_store
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
