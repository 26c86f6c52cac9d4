# SPDX-License-Identifier: Apache-2.0
"""The durable log and the records that change with it: one transaction for a change and its row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names

if TYPE_CHECKING:
    from flprov.store.chain import GENESIS, verify_chain
    from flprov.store.entries import Head
    from flprov.store.lines import START, BrokenRow, read_line, verify_line, verify_lines
    from flprov.store.memory import MemoryStore
    from flprov.store.records import Change, Delete, LogRow, Put, Row, RowFilter, Store
    from flprov.store.snapshot import NEWEST_SCHEMA, STORE_FILE, Snapshot, copied_records, copy_store
    from flprov.store.sqlite import open_store

__all__ = [
    "GENESIS",
    "NEWEST_SCHEMA",
    "START",
    "STORE_FILE",
    "BrokenRow",
    "Change",
    "Delete",
    "Head",
    "LogRow",
    "MemoryStore",
    "Put",
    "Row",
    "RowFilter",
    "Snapshot",
    "Store",
    "copied_records",
    "copy_store",
    "open_store",
    "read_line",
    "verify_chain",
    "verify_line",
    "verify_lines",
]

# Late: a simulation keeps nothing, and needs no SQL.
_MODULES = {
    "BrokenRow": "lines",
    "Change": "records",
    "Delete": "records",
    "GENESIS": "chain",
    "Head": "entries",
    "LogRow": "records",
    "MemoryStore": "memory",
    "NEWEST_SCHEMA": "snapshot",
    "Put": "records",
    "Row": "records",
    "RowFilter": "records",
    "START": "lines",
    "STORE_FILE": "snapshot",
    "Snapshot": "snapshot",
    "Store": "records",
    "copied_records": "snapshot",
    "copy_store": "snapshot",
    "open_store": "sqlite",
    "read_line": "lines",
    "verify_chain": "chain",
    "verify_line": "lines",
    "verify_lines": "lines",
}

__getattr__ = lazy_names(__name__, _MODULES)
