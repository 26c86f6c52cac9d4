# SPDX-License-Identifier: Apache-2.0
"""Room for new tensors that need not stay in memory: an unlinked file, mapped."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Shaped = tuple[np.dtype[Any], tuple[int, ...]]

_IN_MEMORY = 1 << 20  # bytes up to which a file is not worth it
_ALIGNMENT = 64


def make_room(wanted: Mapping[str, Shaped], folder: Path | None) -> dict[str, Array]:
    """New tensors of zeros: name -> dtype, shape.

    Args:
        wanted: what they shall be.
        folder: where a file may be made for them; it has no name, and is gone with the last of the tensors.
            What was written there and is not looked at needs no memory. None: they stay in memory.

    Raises:
        OSError: the disk is full. It is found out here, and not when a tensor is written to.
    """
    sizes = {
        name: dtype.itemsize * int(np.prod(shape, dtype=object)) for name, (dtype, shape) in wanted.items()
    }
    places: dict[str, int] = {}
    end = 0
    for name, size in sizes.items():
        places[name], end = end, end + size + (-size % _ALIGNMENT)
    if folder is None or end <= _IN_MEMORY:
        return {name: np.zeros(shape, dtype) for name, (dtype, shape) in wanted.items()}
    with tempfile.TemporaryFile(dir=folder, prefix="scratch-") as file:
        os.posix_fallocate(file.fileno(), 0, end)
        data = mmap.mmap(file.fileno(), end)
    return {
        name: np.frombuffer(data, dtype, sizes[name] // dtype.itemsize, places[name]).reshape(shape)
        if sizes[name]
        else np.zeros(shape, dtype)
        for name, (dtype, shape) in wanted.items()
    }
