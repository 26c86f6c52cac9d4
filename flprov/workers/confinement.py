# SPDX-License-Identifier: Apache-2.0
"""Confinement: what is done to a process between fork and exec, before job code is anywhere near.

Nothing undoes it: Landlock rules, seccomp filters and no_new_privs pass to every program and child
that the process starts. `view` has the rules, `detection` says what this machine can do.

This module runs in the shim, so it imports nothing that is slow.
"""

from __future__ import annotations

import contextlib
import os
import resource

from flprov.workers import landlock, linux, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - multiprocessing and torch keep semaphores and tensors here


def enter_landlock(rules: Sequence[Sequence[str]]) -> int:
    """Confine this process by Landlock and seccomp; after `make_private_mounts`, where that works.

    Args:
        rules: pairs of a name in `landlock.RIGHTS` and a path.

    Returns:
        The listener that `broker.serve` reads.

    Raises:
        OSError: a path of the rules is missing, or the kernel refused a step.
    """
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict([(name, path) for name, path in rules])
    linux.drop_capabilities()
    code = seccomp.program(ask_connect=True, files=True, truncate=landlock.abi() < 3)
    return seccomp.install(code, listener=True)


def enter_unconfined() -> None:
    """What holds for job code even where the site waives confinement: no new rights."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_capabilities()


def bubblewrap_filter() -> int:
    """An inheritable descriptor with the filter, for `bwrap --seccomp`; mounts govern the files there."""
    descriptor = os.memfd_create("filter", 0)
    os.write(descriptor, seccomp.program(ask_connect=False, files=False, truncate=False))
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)  # noqa: FBT003
    return descriptor


def short_name(tag: str) -> str:
    """A second name of the job's work/, for TMPDIR.

    The address of a UNIX socket has room for 107 bytes of path, and multiprocessing adds 33 to TMPDIR.
    """
    return f"{SHARED_MEMORY}/flprov-{tag[:8]}"


def drop_short_name(tag: str) -> None:
    """Remove the name, where /dev/shm is not the job's own and has not gone with it."""
    with contextlib.suppress(OSError):
        os.unlink(short_name(tag))  # noqa: PTH108 - pathlib is slow to import


def forbid_core_dumps() -> None:
    """A core file would hold the job's data."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def make_private_mounts() -> bool:
    """Enter a mount namespace in which a job sees nothing of other jobs in /dev/shm and /proc.

    As root directly, else inside a user namespace, where the machine lets its users make some. A
    process in which this failed half-way may have lost its user; it must end.

    Returns:
        Whether /proc was possible too: in a user namespace it is not. Without it, job code sees names
        and command lines of other processes, but Landlock keeps it from their environment and memory.

    Raises:
        OSError: not allowed here.
    """
    try:
        linux.unshare(linux.CLONE_NEWNS)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    linux.keep_mounts_apart()
    linux.mount("tmpfs", SHARED_MEMORY, "mode=1777")
    try:
        # Only what the reader may trace: inside a Landlock domain, that is what runs in the same one.
        linux.mount("proc", "/proc", "hidepid=ptraceable")
    except OSError:
        return False
    return True


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
