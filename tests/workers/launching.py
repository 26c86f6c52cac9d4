# SPDX-License-Identifier: Apache-2.0
"""What the tests of launcher, shim and confinement share."""

import shutil

import pytest

from flprov.workers import Method

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is not installed")
METHODS = [Method.LANDLOCK, pytest.param(Method.BUBBLEWRAP, marks=needs_bubblewrap)]
EVERY_METHOD = [*METHODS, Method.NONE]


def gone(pid: int) -> bool:
    """Whether no process, dead or alive, has this number, or only one that nobody has waited for."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
