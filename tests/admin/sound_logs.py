# SPDX-License-Identifier: Apache-2.0
"""A log that nobody has touched yet, read and forged as whoever holds its file can."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import closing

from faults.tampering import NOW, ROWS, Forger, SoundLog

from flprov.store import open_store
from flprov.testing.clock import FakeClock


def lines_of(log: SoundLog) -> list[bytes]:
    async def read() -> list[bytes]:
        store = open_store(log.path.parent, clock=FakeClock(NOW))
        try:
            return await store.lines(limit=10 * ROWS)
        finally:
            await store.close()

    return asyncio.run(read())


def forge(log: SoundLog, way, row: int) -> int:
    with closing(sqlite3.connect(log.path, isolation_level=None)) as connection:
        return way(Forger(connection, log, random.Random(1)), row)
