# SPDX-License-Identifier: Apache-2.0
"""Landlock: which files this process and all that it starts may still open.

Kernel documentation: userspace-api/landlock. Every right that the running kernel knows is
handled, so what no rule grants is denied. ABI 1 is enough for files; 3 adds truncation,
4 TCP, 5 device ioctls, 6 signals and abstract sockets.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from flprov.workers import linux

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
# How many file rights each ABI knows: bits 0 to n-1.
_RIGHTS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP_BIND_AND_CONNECT = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

_ALL = (1 << 16) - 1
RIGHTS = {
    "read": _EXECUTE | _READ_FILE | _READ_DIR,
    "write": _ALL & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV),
    "device": _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV,
}


def abi() -> int:
    """The Landlock ABI of this kernel; 0 when there is none or it is switched off."""
    version_query = 1
    try:
        return linux.call(linux.LANDLOCK_CREATE_RULESET, 0, 0, version_query)
    except OSError:
        return 0


def restrict(rules: list[tuple[str, str]]) -> None:
    """Confine this thread, and all that it starts from now on, to `rules`.

    Args:
        rules: pairs of a name in `RIGHTS` and a path; a folder's rule holds for all below it.

    Raises:
        OSError: a path does not exist, or the kernel refused.
    """
    version = abi()
    handled = (1 << _RIGHTS_BY_ABI.get(version, 16)) - 1
    ruleset = _create(version, handled)
    try:
        for name, path in rules:
            _allow(ruleset, RIGHTS[name] & handled, path)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.call(linux.LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _create(version: int, handled: int) -> int:
    """struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped."""
    net = _TCP_BIND_AND_CONNECT if version >= 4 else 0
    scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", handled, net, scoped)[:size], size)
    return linux.call(linux.LANDLOCK_CREATE_RULESET, ctypes.addressof(attributes), size, 0)


def _allow(ruleset: int, rights: int, path: str) -> None:
    """struct landlock_path_beneath_attr: allowed_access, parent_fd (packed)."""
    path_beneath = 1
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _ON_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor), 12)
        linux.call(linux.LANDLOCK_ADD_RULE, ruleset, path_beneath, ctypes.addressof(rule), 0)
    finally:
        os.close(descriptor)
