# SPDX-License-Identifier: Apache-2.0
"""Processes of a job, as /proc shows them: who descends from whom, who carries a tag; and killing them.

A process is known by its number together with its start time, so that a number that the kernel
has given to somebody else is never signalled. Imported by the shim: nothing slow in here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TAG_VARIABLE = "FLPROV_JOB_TAG"
# Rounds of freezing until no new process turns up. Each round stops all that was there before it,
# and a stopped process cannot fork, so two or three are enough; the bound is for a broken /proc.
_FREEZE_ROUNDS = 100

Found = dict[int, int]  # process number -> start time, in ticks since boot


def boot_id() -> str:
    """Another after each boot of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> int | None:
    """When the process started, in ticks since boot; None when it is dead."""
    seen = _stat(pid)
    return None if seen is None or seen[2] else seen[1]


def descendants(root: int) -> Found:
    """Every living process that `root` has started, directly or not."""
    table = {pid: seen for pid in _numbers() if (seen := _stat(pid))}
    started_by: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        started_by.setdefault(parent, []).append(pid)
    found: Found = {}
    waiting = [root]
    while waiting:
        for pid in started_by.get(waiting.pop(), ()):
            waiting.append(pid)
            _, started, dead = table[pid]
            if not dead:
                found[pid] = started
    return found


def parent_of(pid: int) -> int | None:
    """The process whose child this one is, also when it is dead; None when it is gone."""
    seen = _stat(pid)
    return None if seen is None else seen[0]


def children(parent: int) -> list[int]:
    """The processes whose parent this one is, also dead ones that nobody has waited for."""
    return [pid for pid in _numbers() if (seen := _stat(pid)) and seen[0] == parent]


def tagged(tag: str) -> Found:
    """Every living process that was started with this tag in its environment, and that we may read."""
    mark = f"{TAG_VARIABLE}={tag}".encode()
    found: Found = {}
    for pid in _numbers():
        if mark in _environment(pid) and (started := start_time(pid)) is not None:
            found[pid] = started
    return found


def mounts_of(pid: int) -> int | None:
    """A descriptor of the process's mount namespace, if that is not ours too.

    While it is open no other namespace gets this one's number (namespaces(7)). It is also the mark of what
    a job has started and then stripped of its environment.
    """
    try:
        descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if os.fstat(descriptor).st_ino != os.stat("/proc/self/ns/mnt").st_ino:  # noqa: PTH116 - see the module
        return descriptor
    os.close(descriptor)
    return None


def within(mounts: int) -> Found:
    """Every living process in this mount namespace, of which `mounts` is an open descriptor."""
    number = os.fstat(mounts).st_ino
    found: Found = {}
    for pid in _numbers():
        try:
            inside = os.stat(f"/proc/{pid}/ns/mnt").st_ino == number  # noqa: PTH116
        except OSError:
            continue
        if inside and (started := start_time(pid)) is not None:
            found[pid] = started
    return found


def send_signal(pid: int, started: int, number: int) -> None:
    """Signal this very process; nothing happens when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.ENOSYS and start_time(pid) == started:  # before Linux 5.3
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return
    try:
        if start_time(pid) == started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def kill_all(find: Callable[[], Found]) -> Found:
    """Kill what `find` finds, and what that has started meanwhile. Returns what was found.

    Everything is stopped before anything is killed: a fork bomb that is killed one by one outruns
    whoever kills it.
    """
    stopped: Found = {}
    for _ in range(_FREEZE_ROUNDS):
        fresh = {pid: started for pid, started in find().items() if stopped.get(pid) != started}
        if not fresh:
            break
        for pid, started in fresh.items():
            send_signal(pid, started, signal.SIGSTOP)
        stopped |= fresh
    for pid, started in stopped.items():
        send_signal(pid, started, signal.SIGKILL)
    return stopped


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - see the module


def _stat(pid: int) -> tuple[int, int, bool] | None:
    """Parent, start time, dead or not (proc_pid_stat(5), fields 4, 22, 3 and 20)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except OSError:
        return None
    if len(fields) < 20:
        return None
    # A process whose first thread has ended shows as a zombie while its other threads run on.
    dead = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    return int(fields[1]), int(fields[19]), dead


def _environment(pid: int) -> list[bytes]:
    """The environment that the process was started with; empty when it is gone or another user's."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if data := file.read():
                return data.split(b"\0")
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
            with open(f"/proc/{pid}/task/{thread}/environ", "rb") as file:
                if data := file.read():
                    return data.split(b"\0")
    except OSError:
        return []
    return []
