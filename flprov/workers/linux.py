# SPDX-License-Identifier: Apache-2.0
"""The few Linux calls that Python has no function for, through ctypes.

Imported by the shim, so it imports nothing that is slow.
"""

from __future__ import annotations

import ctypes
import os

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_SLAVE = 0x2, 0x4, 0x4000, 0x80000
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)

# These have one number on every architecture (they are younger than the common table).
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
PIDFD_GETFD = 438
_BY_MACHINE = {"x86_64": {"capset": 126, "seccomp": 317}, "aarch64": {"capset": 91, "seccomp": 277}}


def machine() -> str:
    """`x86_64` or `aarch64`: what the kernel calls this machine."""
    return os.uname().machine


def call(number: int | str, *arguments: object) -> int:
    """One system call by number, or by name where the number differs between architectures.

    Raises:
        OSError: the kernel refused; ENOSYS on an architecture that has no entry here.
    """
    if isinstance(number, str):
        number = _BY_MACHINE.get(machine(), {}).get(number, -1)
    return _checked(_libc.syscall(number, *(_argument(value) for value in arguments)))


def prctl(option: int, *arguments: int) -> int:
    """prctl(2). Raises OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)))


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def keep_mounts_apart() -> None:
    """What this mount namespace mounts from now on stays in it. Raises OSError.

    What the machine mounts later, such as a network share with data, still appears.
    """
    _mount(b"none", "/", b"", _MS_REC | _MS_SLAVE, b"")


def mount(kind: str, path: str, options: str) -> None:
    """Put a new file system of this kind over `path`. Raises OSError."""
    _mount(kind.encode(), path, kind.encode(), _MS_NOSUID | _MS_NODEV, options.encode())


def drop_capabilities() -> None:
    """Give up every capability, also the right to gain them back by exec. Raises OSError."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # EPERM: we have no CAP_SETPCAP, so there is none to lose; EINVAL: past the last
            break
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    call("capset", ctypes.addressof(header), ctypes.addressof(nothing))


def _mount(source: bytes, path: str, kind: bytes, flags: int, options: bytes) -> None:
    _checked(_libc.mount(source, os.fsencode(path), kind, ctypes.c_ulong(flags), options))


def _argument(value: object) -> object:
    """Integers as machine words: ctypes would pass 32 bits of them."""
    return ctypes.c_long(value) if isinstance(value, int) else value


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
