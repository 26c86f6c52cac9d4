# SPDX-License-Identifier: Apache-2.0
"""A new safetensors file that is filled piece by piece, by several threads at once, and then mapped.

Written with `pwrite` into space that was set aside: faster than a mapping that is written to, and nothing of
it counts as memory of the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flprov._base import open_to_fill
from flprov.messages import Tensors
from flprov.wire.dtypes import NAMES
from flprov.wire.scratch import Shaped
from flprov.wire.tensor_header import build_header, place_tensors
from flprov.wire.tensors import read_tensors

Array = NDArray[np.generic]


class TensorFile:
    """The file `path`, for tensors of these dtypes and shapes; the same bytes as `write_tensors` writes.

    with TensorFile(path, {"w": (np.dtype("<f4"), (1000,))}) as file:
        file.put("w", 0, np.ones(1000, np.float32))
    file.tensors["w"]

    What raises inside removes the file.

    Attributes:
        tensors: mapped from the file, copy-on-write, once it is written.
        size: of the file, in bytes.
    """

    def __init__(
        self, path: Path, wanted: Mapping[str, Shaped], metadata: Mapping[str, str] | None = None
    ) -> None:
        self.tensors: Tensors = {}
        self._path = path
        self._names = list(wanted)
        self._items = {name: dtype.itemsize for name, (dtype, _) in wanted.items()}
        infos = place_tensors({name: (NAMES[dtype], shape) for name, (dtype, shape) in wanted.items()})
        self._header = build_header(infos, metadata or {})
        self._starts = {name: len(self._header) + info.start for name, info in infos.items()}
        self.size = len(self._header) + max((info.end for info in infos.values()), default=0)
        self._number = -1
        self._turn = threading.Lock()

    def put(self, name: str, start: int, values: Array) -> None:
        """Write `values`, of the tensor's dtype, from its number `start` on, counted in C order."""
        if values.size:
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            self._write(data, self._starts[name] + start * self._items[name])

    def __enter__(self) -> Self:
        self._number = open_to_fill(self._path, self.size)
        try:
            self._write(memoryview(self._header), 0)
        except BaseException:
            self._close(remove=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(remove=kind is not None)
        if kind is None:
            found = read_tensors(self._path)
            self.tensors = {name: found[name] for name in self._names}

    def _close(self, *, remove: bool) -> None:
        os.close(self._number)  # nobody may have it open for writing when it is handed on
        if remove:
            self._path.unlink(missing_ok=True)

    def _write(self, data: memoryview, offset: int) -> None:
        with self._turn:  # the kernel lets one write at a time; who waits for it there keeps his core busy
            while data:
                written = os.pwrite(self._number, data, offset)
                data, offset = data[written:], offset + written
