# SPDX-License-Identifier: Apache-2.0
"""The durable log and the records that change with it: one transaction for a change and its row."""

from flprov.store.chain import verify_chain
from flprov.store.memory import MemoryStore
from flprov.store.records import Change, Delete, LogRow, Put, Row, RowFilter, Store
from flprov.store.sqlite import open_store

__all__ = [
    "Change",
    "Delete",
    "LogRow",
    "MemoryStore",
    "Put",
    "Row",
    "RowFilter",
    "Store",
    "open_store",
    "verify_chain",
]
