# SPDX-License-Identifier: Apache-2.0
"""Arrays over mapped files: whether anybody has written to them, and their pages given back.

What was written to a copy-on-write mapping is in pages of our own, and the kernel says which those are:
`/proc/self/pagemap`, https://docs.kernel.org/admin-guide/mm/pagemap.html.
"""

from __future__ import annotations

import mmap
import os

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

_PAGE = mmap.PAGESIZE
_OF_FILE = np.uint64(1 << 61)  # "page is file-page or shared-anon"
_SOMEWHERE = np.uint64(3 << 62)  # in memory, or swapped out


def mapping_of(array: Array) -> mmap.mmap | None:
    """The mapped file that an array lies in; None: it lies in memory."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    found = base.obj if isinstance(base, memoryview) else base
    return found if isinstance(found, mmap.mmap) else None


def is_untouched(data: mmap.mmap) -> bool:
    """Whether a mapping still holds what its file holds. False also where the kernel does not tell."""
    return _are_of_file(_address(np.frombuffer(data, np.uint8)), len(data))


def give_back(array: Array) -> None:
    """Let the kernel have the pages of an array, if they come from a file that can give them again.

    What was written to, and what lies in memory, stays.
    """
    data = mapping_of(array)
    if data is None:
        return
    start = _address(array)
    first, end = -(-start // _PAGE) * _PAGE, (start + array.nbytes) // _PAGE * _PAGE
    if first < end and _are_of_file(first, end - first):
        data.madvise(mmap.MADV_DONTNEED, first - _address(np.frombuffer(data, np.uint8)), end - first)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _are_of_file(start: int, size: int) -> bool:
    """Whether none of the pages from `start` on is our own."""
    first, end = start // _PAGE, -(-(start + size) // _PAGE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            entries = np.frombuffer(os.pread(file.fileno(), 8 * (end - first), 8 * first), np.uint64)
    except OSError:
        return False
    own = ((entries & _SOMEWHERE) != 0) & ((entries & _OF_FILE) == 0)
    return entries.size == end - first and not own.any()
