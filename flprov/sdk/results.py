# SPDX-License-Identifier: Apache-2.0
"""Where the results of arithmetic over models go: to memory, or to files where there is a folder for them.

The process of a workflow has (`results_in`): there a mean is written into the very file that becomes the next
model, piece by piece as it is calculated, and takes no memory. Tests and scripts get plain arrays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flprov.messages import Tensors
from flprov.wire import Shaped

Array = NDArray[np.generic]


class Results(Protocol):
    """Tensors that are being calculated. Different pieces may be put by different threads."""

    @property
    def tensors(self) -> Tensors:
        """All of them, once they are calculated."""
        ...

    def put(self, name: str, start: int, values: Array) -> None:
        """The numbers of a tensor from `start` on, counted in C order."""
        ...


class ResultFolder(Protocol):
    """A place for results that are too large for memory."""

    def open_results(self, wanted: Mapping[str, Shaped]) -> AbstractContextManager[Results]:
        """Room for tensors of these dtypes and shapes, which are there once the block has ended."""
        ...


_folder: ContextVar[ResultFolder | None] = ContextVar("flprov results", default=None)


@contextlib.contextmanager
def results_in(folder: ResultFolder) -> Iterator[None]:
    """Inside, large results go to this folder."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def open_results(wanted: Mapping[str, Shaped]) -> AbstractContextManager[Results]:
    """Room for tensors of these dtypes and shapes: name -> dtype, shape.

    with open_results({"w": (np.dtype("<f4"), (1000,))}) as results:
        results.put("w", 0, numbers)
    results.tensors
    """
    folder = _folder.get()
    return contextlib.nullcontext(ResultArrays(wanted)) if folder is None else folder.open_results(wanted)


class ResultArrays:
    """Results in memory."""

    def __init__(self, wanted: Mapping[str, Shaped]) -> None:
        self.tensors: Mapping[str, Array] = {
            name: np.empty(shape, dtype) for name, (dtype, shape) in wanted.items()
        }

    def put(self, name: str, start: int, values: Array) -> None:
        """See `Results.put`."""
        self.tensors[name].reshape(-1)[start : start + values.size] = values
