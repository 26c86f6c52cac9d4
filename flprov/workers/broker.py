# SPDX-License-Identifier: Apache-2.0
"""connect(2) on behalf of confined job code: only to sockets in the job's own folders.

Landlock (up to ABI 8) does not govern connecting to a UNIX socket by its path, so job code could
ask the user's D-Bus, or Docker, to start a program outside. Yet multiprocessing and torch's data
loaders need such sockets. So the filter hands each connect(2) to the shim (seccomp_unotify(2)), and
this module makes the connection itself, on a copy of the address and of the socket: what the
job writes into its memory afterwards changes nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct

from flprov.workers import linux

_NOTIFICATION = struct.Struct("=QII" + "iIQ6Q")  # struct seccomp_notif with its seccomp_data
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, val, error, flags
_RECEIVE = 0xC0502100  # _IOWR('!', 0, struct seccomp_notif)
_SEND = 0xC0182101  # _IOWR('!', 1, struct seccomp_notif_resp)
_STILL_VALID = 0x40082102  # _IOW('!', 2, __u64)
_ADDRESS_SIZE = 110  # struct sockaddr_un


class Broker:
    """Answers the connect(2) calls of one job.

    Args:
        listener: the descriptor that `seccomp.install` gave.
        folders: where sockets may be, as real paths.
        short_name: a name that the job has for one of them, perhaps in a mount namespace of its own.
        short_for: the real path of that one.
    """

    def __init__(self, listener: int, *, folders: tuple[str, ...], short_name: str, short_for: str) -> None:
        self._listener = listener
        self._folders = folders
        self._short_name = short_name
        self._short_for = short_for

    def serve(self) -> None:
        """Answer until the last confined process is gone. For a thread of its own.

        A connect(2) that blocks (a full backlog) blocks this thread, so only the job's own connections.
        """
        while True:
            buffer = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(self._listener, _RECEIVE, buffer)
            except InterruptedError:
                continue
            except FileNotFoundError:  # the caller was killed before it was heard, or all are gone
                if _all_gone(self._listener):
                    return
                continue
            except OSError:
                return
            self._answer(buffer)

    def _answer(self, buffer: bytearray) -> None:
        notification = _NOTIFICATION.unpack(buffer)
        cookie, thread = notification[0], notification[1]
        try:
            self._connect(cookie, thread, *notification[6:9])
            code = 0
        except OSError as error:
            code = error.errno or errno.EACCES
        try:
            fcntl.ioctl(self._listener, _SEND, bytearray(_RESPONSE.pack(cookie, 0, -code, 0)))
        except OSError:
            return  # the caller is dead, or was interrupted by a signal and will ask again

    def _connect(self, cookie: int, thread: int, descriptor: int, pointer: int, length: int) -> None:
        """Connect the caller's socket to the UNIX socket that it names. Raises OSError."""
        process = os.pidfd_open(_process_of(thread))
        try:
            address = _read_memory(thread, pointer, min(length & 0xFFFFFFFF, _ADDRESS_SIZE))
            folder = os.readlink(f"/proc/{thread}/cwd")  # noqa: PTH115 - pathlib is slow to import
            # Only now is it sure that all of the above was the caller's, and not of a later process
            # with its number.
            fcntl.ioctl(self._listener, _STILL_VALID, struct.pack("=Q", cookie))
            copy = linux.call(linux.PIDFD_GETFD, process, ctypes.c_int(descriptor & 0xFFFFFFFF).value, 0)
        finally:
            os.close(process)
        with socket.socket(fileno=copy) as sock:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) != socket.AF_UNIX:
                raise PermissionError(errno.EACCES, "not a UNIX socket")
            target = self._open_target(self._path(folder, address))
            try:
                sock.connect(f"/proc/self/fd/{target}")  # this very file, whatever its name means by now
            finally:
                os.close(target)

    def _path(self, folder: str, address: bytes) -> str:
        """The absolute path in a struct sockaddr_un, as this process can open it."""
        family = int.from_bytes(address[:2], "little")
        if len(address) < 3 or family != socket.AF_UNIX or address[2] == 0:
            raise PermissionError(errno.EACCES, "no path: another family, or an abstract name")
        path = os.fsdecode(address[2:].split(b"\0", 1)[0])
        path = os.path.join(folder, path)  # noqa: PTH118
        if path.startswith(self._short_name + "/"):
            return self._short_for + path.removeprefix(self._short_name)
        return path

    def _open_target(self, path: str) -> int:
        """An O_PATH descriptor of a socket that lies in one of the folders."""
        target = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        real = os.readlink(f"/proc/self/fd/{target}")  # noqa: PTH115
        inside = any(real.startswith(allowed + "/") for allowed in self._folders)
        if inside and stat.S_ISSOCK(os.fstat(target).st_mode):
            return target
        os.close(target)
        raise PermissionError(errno.EACCES, "not a socket of this job")


def _process_of(thread: int) -> int:
    """The process of a thread: pidfd_open(2) wants the first thread's number."""
    with open(f"/proc/{thread}/status", "rb") as file:
        for line in file:
            if line.startswith(b"Tgid:"):
                return int(line.split()[1])
    raise ProcessLookupError(errno.ESRCH, "the caller is gone")


def _read_memory(thread: int, pointer: int, length: int) -> bytes:
    memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(memory, length, pointer)
    finally:
        os.close(memory)


def _all_gone(listener: int) -> bool:
    """POLLHUP: no process uses the filter any more (Linux 5.8)."""
    import select

    poller = select.poll()
    poller.register(listener, 0)
    return bool(poller.poll(0))
