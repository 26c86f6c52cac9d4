# SPDX-License-Identifier: Apache-2.0
"""What jobs take of this machine now: their processes, and the memory that those hold."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flprov.workers.processes import boot_id
from flprov.workers.record import ShimRecord, read_shim_record

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The subtree of one job's shim."""

    pids: frozenset[int] = frozenset()
    memory: int = 0  # bytes that are resident; what several of its processes share counts for each


def read_footprints(folders: Iterable[Path]) -> dict[Path, Footprint]:
    """The footprint of the job in each of these folders; /proc is read once for all of them, if at all."""
    boot = boot_id()
    shims = {folder: read_shim_record(folder) for folder in folders}
    living = {folder: shim for folder, shim in shims.items() if shim is not None and shim.boot == boot}
    table = _read_table() if living else {}
    started_by: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        started_by.setdefault(parent, []).append(pid)
    prints = {folder: _footprint(shim, table, started_by) for folder, shim in living.items()}
    return {folder: prints.get(folder, Footprint()) for folder in shims}


def _footprint(
    shim: ShimRecord, table: dict[int, tuple[int, int, int]], started_by: dict[int, list[int]]
) -> Footprint:
    if table.get(shim.pid, (0, -1, 0))[1] != shim.started:
        return Footprint()
    found, waiting = {shim.pid}, [shim.pid]
    while waiting:
        fresh = [pid for pid in started_by.get(waiting.pop(), ()) if pid not in found]
        found.update(fresh)
        waiting.extend(fresh)
    return Footprint(pids=frozenset(found), memory=sum(table[pid][2] for pid in found))


def _read_table() -> dict[int, tuple[int, int, int]]:
    """Parent, start time and resident bytes of every process (proc_pid_stat(5), fields 4, 22 and 24)."""
    table = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - one list, not an object for each process
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            table[int(name)] = (int(fields[1]), int(fields[19]), int(fields[21]) * _PAGE)
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
    return table
