# SPDX-License-Identifier: Apache-2.0
"""Clock, files, back-off, documents: nothing here knows what a site or a job is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base.boot import boot_id
from flprov._base.clock import Clock, SystemClock, from_iso, to_iso
from flprov._base.documents import canonical_json, from_document, parse_json, to_document
from flprov._base.files import (
    hold_lock,
    name_file,
    on_overlayfs,
    replace_tree,
    sync_folder,
    sync_tree,
    write_atomic,
    write_private,
    write_tree,
)
from flprov._base.lazy import lazy_names
from flprov._base.retry import backoff
from flprov._base.values import dataclass

if TYPE_CHECKING:
    from flprov._base.alarm import Alarm, sleep_unless
    from flprov._base.aside import run_aside
    from flprov._base.malloc import keep_freed_memory
    from flprov._base.removal import remove_file
    from flprov._base.spare import LEAST_SPARE, is_spare, open_to_fill, spare_name
    from flprov._base.tasks import Tasks

__all__ = [
    "LEAST_SPARE",
    "Alarm",
    "Clock",
    "SystemClock",
    "Tasks",
    "backoff",
    "boot_id",
    "canonical_json",
    "dataclass",
    "from_document",
    "from_iso",
    "hold_lock",
    "is_spare",
    "keep_freed_memory",
    "lazy_names",
    "name_file",
    "on_overlayfs",
    "open_to_fill",
    "parse_json",
    "remove_file",
    "replace_tree",
    "run_aside",
    "sleep_unless",
    "spare_name",
    "sync_folder",
    "sync_tree",
    "to_document",
    "to_iso",
    "write_atomic",
    "write_private",
    "write_tree",
]

# These come with asyncio or ctypes, which most do without.
__getattr__ = lazy_names(
    __name__,
    {
        "Alarm": "alarm",
        "LEAST_SPARE": "spare",
        "Tasks": "tasks",
        "is_spare": "spare",
        "keep_freed_memory": "malloc",
        "open_to_fill": "spare",
        "remove_file": "removal",
        "run_aside": "aside",
        "sleep_unless": "alarm",
        "spare_name": "spare",
    },
)
