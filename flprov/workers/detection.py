# SPDX-License-Identifier: Apache-2.0
"""Detection: how this machine can confine job code, and what it cannot hold off."""

from __future__ import annotations

import enum
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import flprov
from flprov.workers import landlock, seccomp

PACKAGE = Path(flprov.__file__).resolve().parent


class Method(enum.Enum):
    """How job code is confined."""

    LANDLOCK = "landlock"  # Landlock for files, TCP, signals; seccomp for the rest
    BUBBLEWRAP = "bubblewrap"  # namespaces made by bwrap; the same seccomp filter
    NONE = "none"  # neither works here; jobs are refused unless the site waives it


@functools.cache
def detect_method() -> Method:
    """The best method that works on this machine; tried, not guessed from versions."""
    if landlock.abi() > 0 and seccomp.available():
        return Method.LANDLOCK
    return Method.BUBBLEWRAP if _bubblewrap_works() else Method.NONE


def confinement_method() -> str:
    """`landlock`, `bubblewrap` or `none`: how job code is confined on this machine."""
    return detect_method().value


def confinement_gaps(method: Method | None = None) -> tuple[str, ...]:
    """What this machine's kernel cannot hold off, each a sentence for the site's status."""
    method = method or detect_method()
    if method is Method.NONE:
        return ("job code runs with every right of the agent's own user",)
    if method is Method.BUBBLEWRAP:
        return ()
    gaps = []
    if landlock.abi() < 6:
        gaps.append("job code can send signals to other processes of this user (needs Linux 6.12)")
    mounts = try_private_mounts()
    if mounts is None:
        gaps.append("jobs of this user see each other's /dev/shm (it may not make mount namespaces)")
    if not mounts:
        gaps.append("job code sees names and command lines of other processes (only root can hide them)")
    return tuple(gaps)


@functools.cache
def try_private_mounts() -> bool | None:
    """What `confinement.make_private_mounts` answers, in a process of its own; None: it fails."""
    trial = (
        "import sys; sys.path.append(sys.argv[1]); "
        "from flprov.workers.confinement import make_private_mounts; print(make_private_mounts())"
    )
    answer = _output([sys.executable, "-I", "-S", "-c", trial, str(PACKAGE.parent)])
    return None if answer is None else "True" in answer


@functools.cache
def _bubblewrap_works() -> bool:
    program = shutil.which("bwrap")
    if program is None or not seccomp.available():
        return False
    command = [program, "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    return _output(command) is not None


def _output(command: list[str]) -> str | None:
    """What the command prints; None when it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
