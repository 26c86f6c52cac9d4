# SPDX-License-Identifier: Apache-2.0
"""Reaping: ending what is left of a job when its shim, or the parent that started it, is gone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from flprov._base import canonical_json, write_atomic
from flprov.workers.confinement import drop_short_name
from flprov.workers.processes import (
    Found,
    boot_id,
    children,
    descendants,
    kill_all,
    send_signal,
    start_time,
    tagged,
    within,
)
from flprov.workers.record import (
    EXIT_RECORD,
    SHIM_RECORD,
    SHIM_SOCKET,
    ExitRecord,
    ShimRecord,
    read_exit_record,
    read_shim_record,
)

_PATIENCE = 5.0  # seconds until what does not die is reported
_ROUND = 0.05  # seconds that one round waits for the killed to end


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What was found and killed, and what is there all the same."""

    found: tuple[int, ...]
    remaining: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """What an earlier parent had left of a job."""

    found: tuple[int, ...]  # processes that were alive, its shim included
    remaining: tuple[int, ...]  # of these, what could not be killed; empty is as it should be
    record: ExitRecord | None  # how the job ended; None when it was never started


def sweep(tag: str, *, adopted: bool = False, mounts: int | None = None) -> Swept:
    """Kill every process with this tag, and wait until they are gone. Blocks, for seconds at worst.

    Args:
        tag: what the launcher gave to the job.
        adopted: also our own children that carry a filter which we do not: what a killed shim
            leaves behind comes to us (PR_SET_CHILD_SUBREAPER), even if it has wiped its environment.
        mounts: an open descriptor of the job's own mount namespace: also what is in there. For a shim
            that another process has started, whose orphans do not come to us.
    """

    def find() -> Found:
        inside = {} if mounts is None else within(mounts)
        return tagged(tag) | inside | (_adopted() if adopted else {})

    return _kill_until_gone(find)


def reap_leftovers(folder: Path) -> Leftovers:
    """End what an earlier parent left of the job in `folder`. Blocks, for seconds at worst.

    For after a restart of agent or server. Calling it again finds nothing.
    """
    shim = read_shim_record(folder)
    if shim is None:
        drop_door(folder)
        return Leftovers(found=(), remaining=(), record=read_exit_record(folder))
    swept = Swept(found=(), remaining=())
    reason = "the machine was restarted while the job ran"
    if shim.boot == boot_id():
        swept = _end(shim)
        reason = "the job's shim was killed while its parent was away"
    record = read_exit_record(folder)
    drop_door(folder)
    if record is None:
        record = ExitRecord(reason=reason, stopped=True, outside=True, remaining=swept.remaining)
        write_exit_record(folder, record)
    return Leftovers(found=swept.found, remaining=swept.remaining, record=record)


def drop_door(folder: Path) -> None:
    """Remove the socket of a shim that is gone, and what it may have been writing."""
    for name in (SHIM_SOCKET, f"{SHIM_RECORD}.partial", f"{EXIT_RECORD}.partial"):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def write_exit_record(folder: Path, record: ExitRecord) -> None:
    """For a shim that can no longer do it."""
    with contextlib.suppress(OSError):  # a full disk; the caller has the record
        write_atomic(folder / EXIT_RECORD, canonical_json(record))


def _end(shim: ShimRecord) -> Swept:
    """The shim's subtree first, so that the shim itself sees it end and writes the record."""
    found: Found = {}
    deadline = time.monotonic() + _PATIENCE
    while start_time(shim.pid) == shim.started:
        found[shim.pid] = shim.started
        found |= kill_all(lambda: descendants(shim.pid))
        _wait({shim.pid: shim.started}, _ROUND)
        if time.monotonic() > deadline:
            send_signal(shim.pid, shim.started, signal.SIGKILL)
            break
    rest = sweep(shim.tag)
    drop_short_name(shim.tag)
    return Swept(found=tuple(sorted({*found, *rest.found})), remaining=rest.remaining)


def _kill_until_gone(find: Callable[[], Found]) -> Swept:
    found: Found = {}
    deadline = time.monotonic() + _PATIENCE
    while alive := kill_all(find):
        found |= alive
        _wait(alive, _ROUND)
        collect(alive)
        if time.monotonic() > deadline:
            break
    return Swept(found=tuple(sorted(found)), remaining=tuple(sorted(alive)))


def _wait(processes: Found, seconds: float) -> None:
    """Until all of them have ended, or the time is over."""
    handles = {}
    poller = select.poll()
    for pid in processes:
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            handles[handle] = pid
            poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    try:
        pending = set(handles)
        while pending and (left := deadline - time.monotonic()) > 0:
            for handle, _ in poller.poll(left * 1000 + 1):
                poller.unregister(handle)
                pending.discard(handle)
    finally:
        for handle in handles:
            os.close(handle)


def collect(processes: Iterable[int]) -> None:
    """Take note of the end of adopted children; without that they stay as zombies."""
    for pid in processes:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _adopted() -> Found:
    """Orphans of a job: our children under more seccomp filters than we are, and what they started."""
    ours = _filters(os.getpid())
    orphans = [pid for pid in children(os.getpid()) if _filters(pid) > ours]
    found: Found = {}
    for pid in orphans:
        started = start_time(pid)
        if started is None:
            collect([pid])
        else:
            found |= {pid: started} | descendants(pid)
    return found


def _filters(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return 0
    fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)
    return int(fields.get(b"Seccomp_filters", b"0"))
