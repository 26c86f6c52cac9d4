# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive the command that starts them: starting, recognising and ending them.

A process is known by its number together with its start time, so that a number that the kernel has
given to somebody else is never taken for ours. Its end is waited for on a pidfd, which polls nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_START_TIME = 19  # proc_pid_stat(5), field 22, counted from the state, which is field 3
_DEAD = frozenset({b"Z", b"X"})


@dataclass(frozen=True, kw_only=True)
class ProcessMark:
    """One process, and no other that ever gets its number."""

    pid: int
    started: str  # boot id and ticks since that boot

    @property
    def alive(self) -> bool:
        """Whether it is this very process that has the number now."""
        return mark(self.pid) == self


def mark(pid: int) -> ProcessMark | None:
    """The process that has this number now; None when there is none, or a dead one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    if len(fields) <= _START_TIME or fields[0] in _DEAD:
        return None
    return ProcessMark(pid=pid, started=f"{boot}:{int(fields[_START_TIME])}")


def start_detached(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str], folder: Path
) -> ProcessMark:
    """Start a process in a session of its own that writes to `log`, and let go of it.

    Raises:
        OSError: the program is missing, or the machine refused.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
    found = mark(process.pid)
    process.returncode = 0  # it outlives us; without this Popen complains that nobody waited for it
    return found or ProcessMark(pid=process.pid, started="")


def find_commands(tail: Sequence[str]) -> list[ProcessMark]:
    """Living processes whose command line ends in these words, whoever started them."""
    wanted = b"".join(os.fsencode(word) + b"\0" for word in ("", *tail))
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            ours = (folder / "cmdline").read_bytes().endswith(wanted)
            if ours and (seen := mark(int(folder.name))):
                found.append(seen)
    return found


def find_descendants(processes: Iterable[ProcessMark]) -> set[ProcessMark]:
    """Every living process that these have started, directly or not."""
    import psutil  # late: only the end of a network needs it

    found = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
            found |= {seen for child in children if (seen := mark(child.pid))}
    return found


def end_all(processes: Iterable[ProcessMark], *, grace: float, patience: float = 5.0) -> set[ProcessMark]:
    """Ask processes to end, and kill those that have not after `grace` seconds.

    Returns:
        Those that had to be killed. `ProcessMark.alive` tells whether even that was in vain.
    """
    with _handles(processes) as handles:
        if grace > 0:
            _signal(handles, signal.SIGTERM)
            _wait_for_end(handles, grace)
        killed = set(handles.values())
        _signal(handles, signal.SIGKILL)
        _wait_for_end(handles, patience)
    return killed


@contextlib.contextmanager
def _handles(processes: Iterable[ProcessMark]) -> Iterator[dict[int, ProcessMark]]:
    """A pidfd for each that lives; what ends is taken out by `_wait_for_end`."""
    with contextlib.ExitStack() as opened:
        found = {}
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                handle = os.pidfd_open(process.pid)
                opened.callback(os.close, handle)
                if process.alive:  # asked after opening: from here on the handle is this process
                    found[handle] = process
        yield found


def _signal(handles: Mapping[int, ProcessMark], number: signal.Signals) -> None:
    for handle in handles:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(handle, number)


def _wait_for_end(handles: dict[int, ProcessMark], seconds: float) -> None:
    poller = select.poll()
    for handle in handles:
        poller.register(handle, select.POLLIN)
    deadline = time.monotonic() + seconds
    while handles and (left := deadline - time.monotonic()) > 0:
        for handle, _ in poller.poll(left * 1000 + 1):
            poller.unregister(handle)
            collect(handle)
            del handles[handle]


def collect(handle: int) -> str:
    """How the process of this pidfd has ended, in words, if it was our own child; else nothing.

    Takes note of its end, without which it stays as a zombie.
    """
    try:
        ended = os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return ""
    if ended is None:
        return ""
    if ended.si_code == os.CLD_EXITED:
        return f"with status {ended.si_status}"
    return f"by {signal.Signals(ended.si_status).name}"
