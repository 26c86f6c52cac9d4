# SPDX-License-Identifier: Apache-2.0
"""What is forked often has its memory in huge pages, where the kernel has them."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import ctypes, mmap, os, sys
from flprov.workers.template import _HUGE, _MADV_COLLAPSE, _collapse

libc = ctypes.CDLL(None)
ours = mmap.mmap(-1, 4 * _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ours[:] = b"x" * len(ours)

def huge():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("AnonHugePages"))

before = huge()
_collapse(libc)
print(huge() - before, ours[:] == b"x" * len(ours))
child = os.fork()
if not child:
    ours[0] = 1
    os._exit(0)
os.waitpid(child, 0)
print(ours[0] == ord("x"))
"""


def test_what_stays_as_it_is_becomes_huge_pages_and_a_child_has_its_own_copy():
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, text=True, check=True, timeout=60
    )
    grown, same, alone = done.stdout.split()
    assert (same, alone) == ("True", "True")
    if grown == "0":
        pytest.skip("this kernel collapses no pages")
    assert int(grown) >= 3 * 2048  # kB: of four, one may lie across the area's edges
