# SPDX-License-Identifier: Apache-2.0
"""Finding a shim that another parent has started, and taking that parent's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from flprov.workers.parent import PACKET, peer_of
from flprov.workers.processes import boot_id, parent_of, send_signal, start_time
from flprov.workers.record import SHIM_SOCKET, ShimRecord, read_shim_record

_ANSWER = 10.0  # seconds in which a shim that lives lets a parent in, and which nothing else needs


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A shim that has taken us for its parent."""

    shim: FoundShim
    tag: str
    method: str
    worker: int  # process number
    control: socket.socket
    channel: socket.socket  # our end of the frames


class FoundShim:
    """A running shim: what `subprocess.Popen` is for one that this process has started.

    Args:
        pid: its process number.
        started: when, in ticks since boot.
        handle: a pidfd of it.
        forked: for us, by another process, which ends at once; then it is our child.
    """

    def __init__(self, pid: int, started: int, handle: int, *, forked: bool = False) -> None:
        self.pid = pid
        self._forked = forked
        self._started = started
        self._handle = handle
        self._turn = threading.Lock()  # two may wait
        self._ended = False
        self._status: int | None = None

    def kill(self) -> None:
        """SIGKILL."""
        send_signal(self.pid, self._started, signal.SIGKILL)

    def wait(self) -> int | None:
        """Until it has ended; its status as of `subprocess.Popen.wait`, if it is our child. Blocks."""
        with self._turn:
            if self._ended:
                return self._status
            _await_end(self._handle)
            os.close(self._handle)
            self._ended = True
            if self._forked:
                _await_parent(self.pid)
            # Ours, if the template forked it, or if we are its parent's process under a new image.
            with contextlib.suppress(ChildProcessError):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self._status = os.waitstatus_to_exitcode(status) if pid else None
            return self._status

    def leave(self) -> None:
        """Let go of it."""
        os.close(self._handle)


async def adopt_shim(folder: Path) -> Adopted | None:
    """Become the parent of the shim of the job in `folder`; None when none lives there that waits for one."""
    record = read_shim_record(folder)
    if record is None or record.job_id != folder.name or record.boot != boot_id():
        return None
    shim = _find(record)
    if shim is None:
        return None
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with worker_end:
            _knock(control, folder, record)
            socket.send_fds(control, [json.dumps({"adopt": True}).encode()], [worker_end.fileno()])
        async with asyncio.timeout(_ANSWER):
            packet = await asyncio.get_running_loop().sock_recv(control, PACKET)
        answer = json.loads(packet)["adopted"] if packet else None
    except (OSError, KeyError):  # TimeoutError is one: it is ending, or was stopped
        answer = None
    except BaseException:
        _close(control, channel, shim)
        raise
    if answer is None:
        _close(control, channel, shim)
        return None
    return Adopted(
        shim=shim,
        tag=record.tag,
        method=str(answer["method"]),
        worker=int(answer["pid"]),
        control=control,
        channel=channel,
    )


def _find(record: ShimRecord) -> FoundShim | None:
    try:
        handle = os.pidfd_open(record.pid)
    except OSError:
        return None
    if start_time(record.pid) == record.started:  # asked after opening: the handle is of this very process
        return FoundShim(record.pid, record.started, handle)
    os.close(handle)
    return None


def own_shim(pid: int) -> FoundShim:
    """A shim that is our child, or will be at once, and that nobody else waits for."""
    return FoundShim(pid, start_time(pid) or 0, os.pidfd_open(pid), forked=True)


def _await_end(handle: int) -> None:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    poller.poll()


def _await_parent(pid: int) -> None:
    """Until who has forked this process for us is gone as well: before that it is not our child."""
    parent = parent_of(pid)
    if parent is None or parent == os.getpid():
        return
    with contextlib.suppress(OSError):  # gone meanwhile
        handle = os.pidfd_open(parent)
        if parent_of(pid) == parent:  # asked after opening: the handle is of this very process
            _await_end(handle)
        os.close(handle)


def _knock(control: socket.socket, folder: Path, record: ShimRecord) -> None:
    """Connect to the shim's socket, whatever the length of the folder's name. Raises OSError."""
    control.setblocking(False)  # noqa: FBT003 - the function takes it by position only
    here = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        control.connect(f"/proc/self/fd/{here}/{SHIM_SOCKET}")
    finally:
        os.close(here)
    if peer_of(control) != (record.pid, os.geteuid()):
        raise ConnectionRefusedError("another process listens at the shim's socket")


def _close(control: socket.socket, channel: socket.socket, shim: FoundShim) -> None:
    control.close()
    channel.close()
    shim.leave()
