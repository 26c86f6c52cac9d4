# SPDX-License-Identifier: Apache-2.0
"""Waiting until processes say that they are ready (sd_notify(3)), or the first of them ends.

The supervisor's end of the protocol that systemd speaks with `Type=notify`: one datagram socket, whose
name the children get in NOTIFY_SOCKET. The kernel says who sent each datagram.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from flprov.errors import LocalError, TimedOut
from flprov.poc.processes import ProcessMark, collect

VARIABLE = "NOTIFY_SOCKET"
_UCRED = struct.Struct("iII")  # unix(7): pid, uid, gid
_MOST_BYTES = 4096
_LAST_LINES = 15
_MOST_LOG = 1 << 20  # bytes of a log that are looked at for them


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process that was just started."""

    name: str
    process: ProcessMark
    log: Path
    log_start: int  # bytes that an earlier process had written


class Notifications:
    """The socket. Its name is in the abstract namespace: no file, no limit from a deep folder."""

    def __init__(self) -> None:
        self.address = f"@flprov-poc-{secrets.token_hex(8)}"  # as NOTIFY_SOCKET spells it
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)  # noqa: FBT003 - by position only
        self._socket.bind(f"\0{self.address[1:]}")

    def __enter__(self) -> Notifications:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For select and poll."""
        return self._socket.fileno()

    def receive(self) -> tuple[int, frozenset[str]] | None:
        """The next message: who sent it, and its lines. None when there is none."""
        try:
            data, control, _, _ = self._socket.recvmsg(_MOST_BYTES, socket.CMSG_SPACE(_UCRED.size))
        except BlockingIOError:
            return None
        sender = 0
        for level, kind, value in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = _UCRED.unpack(value[: _UCRED.size])[0]
        return sender, frozenset(data.decode(errors="replace").splitlines())


def wait_until_ready(
    children: Mapping[int, Child],
    notifications: Notifications,
    *,
    timeout: float,
    on_ready: Callable[[str], None],
) -> None:
    """Until each of the children, by process number, has said READY=1.

    Raises:
        LocalError: one has ended; with the last lines of its log.
        TimedOut: some have said nothing; they still run.
    """
    waiting = dict(children)
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as opened:
        poller = select.poll()
        poller.register(notifications, select.POLLIN)
        handles = {}
        for child in children.values():
            handle = _open(child)
            opened.callback(os.close, handle)
            handles[handle] = child
            poller.register(handle, select.POLLIN)
        while waiting:
            events = poller.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)
            _take_news(notifications, waiting, on_ready)
            for handle, _ in events:
                if handle in handles:
                    raise _ended(handles[handle], collect(handle))
            if not events and waiting:
                raise _overdue(list(waiting.values()), timeout)


def _open(child: Child) -> int:
    try:
        return os.pidfd_open(child.process.pid)
    except ProcessLookupError:
        raise _ended(child, "") from None


def _take_news(
    notifications: Notifications, waiting: dict[int, Child], on_ready: Callable[[str], None]
) -> None:
    while message := notifications.receive():
        sender, lines = message
        if sender in waiting and "READY=1" in lines:
            on_ready(waiting.pop(sender).name)


def _ended(child: Child, how: str) -> LocalError:
    said = _last_lines(child)
    text = f"{child.name} ended {how}".rstrip() + " before the network was ready"
    return LocalError(f"{text}; it said:\n{said}" if said else text, hint=f"the whole log: {child.log}")


def _overdue(late: list[Child], timeout: float) -> TimedOut:
    said = "".join(f"\n{child.name} said last:\n{_last_lines(child)}" for child in late)
    names = ", ".join(child.name for child in late)
    return TimedOut(f"not ready after {timeout:g} s: {names}{said}", hint=f"the whole log: {late[0].log}")


def _last_lines(child: Child) -> str:
    try:
        with child.log.open("rb") as file:
            file.seek(max(child.log_start, os.fstat(file.fileno()).st_size - _MOST_LOG))
            text = file.read(_MOST_LOG).decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-_LAST_LINES:])
