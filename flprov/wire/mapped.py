# SPDX-License-Identifier: Apache-2.0
"""Arrays over mapped files: whether anybody has written to them, and their pages given back.

What was written to a copy-on-write mapping is in pages of our own, and the kernel says which those are:
`/proc/self/pagemap`, https://docs.kernel.org/admin-guide/mm/pagemap.html.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import BinaryIO

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
    try:
        with _open_pagemap() as pagemap:
            return _are_of_file(pagemap, _address(np.frombuffer(data, np.uint8)), len(data))
    except OSError:
        return False


def give_back(*arrays: Array) -> None:
    """Let the kernel have the pages of arrays, if they come from files that can give them again.

    What was written to, and what lies in memory, stays.
    """
    mapped = [(data, array) for array in arrays if (data := mapping_of(array)) is not None]
    with contextlib.suppress(OSError), _open_pagemap() as pagemap:  # once: there may be thousands
        for data, array in mapped:
            start = _address(array)
            first, end = -(-start // _PAGE) * _PAGE, (start + array.nbytes) // _PAGE * _PAGE
            if first < end and _are_of_file(pagemap, first, end - first):
                offset = first - _address(np.frombuffer(data, np.uint8))
                data.madvise(mmap.MADV_DONTNEED, offset, end - first)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _open_pagemap() -> BinaryIO:
    return open("/proc/self/pagemap", "rb", buffering=0)


def _are_of_file(pagemap: BinaryIO, start: int, size: int) -> bool:
    """Whether none of the pages from `start` on is our own."""
    first, end = start // _PAGE, -(-(start + size) // _PAGE)
    entries = np.frombuffer(os.pread(pagemap.fileno(), 8 * (end - first), 8 * first), np.uint64)
    if entries.size != end - first:
        return False
    if np.bitwise_and.reduce(entries) & _OF_FILE:  # all of them have been read, as most have
        return True
    own = ((entries & _SOMEWHERE) != 0) & ((entries & _OF_FILE) == 0)
    return not own.any()
