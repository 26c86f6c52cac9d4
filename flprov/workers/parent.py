# SPDX-License-Identifier: Apache-2.0
"""The shim's line to its parent, and the door at which a new parent may knock when that one is gone.

The door is a socket in the job's folder, which the worker cannot reach, and it opens to processes of our
own user only. Runs in the shim: nothing slow in here.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct

from flprov.workers.descriptors import receive_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKET = 1 << 17  # bytes of the largest packet
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class ParentLine:
    """One parent at a time.

    Args:
        control: the line to the first one.
        poll: is told what to watch: the line, or the door while there is nobody on it.
        door: where the next one may knock; None: nobody is waited for.
    """

    def __init__(self, control: socket.socket, poll: select.poll, door: str | None) -> None:
        self._control: socket.socket | None = control
        self._poll = poll
        self._path = door
        self._door = None if door is None else open_door(door)
        self.channel: int | None = None  # the worker's end of new frames, from a parent that adopts
        poll.register(control, select.POLLIN)

    @property
    def door(self) -> int:
        """The descriptor of the door; -1 when there is none."""
        return -1 if self._door is None else self._door.fileno()

    def send(self, message: dict[str, Any], *, flags: int = 0) -> None:
        """One packet to the parent, if there is one."""
        if self._control is not None:
            send(self._control, message, flags=flags)

    def receive(self) -> dict[str, Any] | None:
        """What the parent says; None: it is gone, and the door is watched from now on."""
        assert self._control is not None
        try:
            packet, descriptors = receive_descriptors(self._control, PACKET)
        except BlockingIOError:
            return {}
        except ConnectionError:
            packet, descriptors = b"", []
        for descriptor in descriptors:
            self.drop_channel()
            self.channel = descriptor
        if packet:
            message: dict[str, Any] = json.loads(packet)
            return message
        self._poll.unregister(self._control)
        self._control.close()
        self._control = None
        if self._door is not None:
            self._poll.register(self._door, select.POLLIN)
        return None

    def let_in(self) -> None:
        """Somebody knocks. Whoever is not of our own user is sent away."""
        assert self._door is not None
        try:
            comer, _ = self._door.accept()
        except OSError:  # has left again
            return
        if peer_of(comer)[1] != os.geteuid():
            comer.close()
            return
        self._control = comer
        self._poll.unregister(self._door)
        self._poll.register(comer, select.POLLIN)

    def drop_channel(self) -> None:
        """Close the end that the last adoption brought."""
        if self.channel is not None:
            os.close(self.channel)
            self.channel = None

    def close_door(self) -> None:
        """Nobody can come any more; the socket is removed."""
        if self._door is not None and self._path is not None:
            self._door.close()
            try:
                os.unlink(self._path)  # noqa: PTH108 - pathlib is slow to import
            except OSError:
                return


def send(control: socket.socket, message: dict[str, Any], *, flags: int = 0) -> None:
    """One packet to the parent, which may be gone."""
    try:
        control.send(json.dumps(message).encode(), socket.MSG_NOSIGNAL | flags)
    except OSError:
        return


def parent_gone(control: socket.socket) -> bool:
    """Whether the other end is closed and has left nothing to be read."""
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def open_door(path: str) -> socket.socket:
    """Listen at `path`, for our own user. Raises OSError.

    The address of a UNIX socket has room for 107 bytes, so the folder is named by its descriptor.
    """
    folder, name = os.path.split(path)
    here = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        door.bind(f"/proc/self/fd/{here}/{name}")
        door.listen(4)
    except OSError:
        door.close()
        raise
    finally:
        os.umask(before)
        os.close(here)
    door.setblocking(False)  # noqa: FBT003 - the function takes it by position only
    return door


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a UNIX socket (SO_PEERCRED, unix(7))."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(data)
    return pid, user
