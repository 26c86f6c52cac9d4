# SPDX-License-Identifier: Apache-2.0
"""Receiving descriptors over a UNIX socket, as `socket.recv_fds` does, but with its flags (it drops them)."""

from __future__ import annotations

import array
import socket

_FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


def receive_descriptors(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """One packet of at most `size` bytes and the descriptors with it, which no program inherits; not waiting.

    Raises:
        BlockingIOError: there is none now.
        OSError: the socket is broken.
    """
    found = array.array("i")
    data, extra, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(8 * found.itemsize), _FLAGS)
    for level, kind, content in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return data, list(found)
