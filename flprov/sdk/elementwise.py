# SPDX-License-Identifier: Apache-2.0
"""Arithmetic over several tensors of one shape, in float64 and in pieces, so that it takes no room."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import JobFailed
from flprov.sdk.floats import all_finite, narrow, widen

Array = NDArray[np.generic]
Wide = NDArray[np.float64]
_PIECE = 1 << 15  # elements, as in aggregation


def calculate(
    name: str,
    rule: Callable[..., Sequence[Wide]],
    inputs: Sequence[Array],
    dtypes: Sequence[np.dtype[Any]],
) -> list[Array]:
    """The tensors that `rule` makes of `inputs`, element by element.

    Args:
        name: of the tensor, for the message.
        rule: gets a piece of each input in float64, gives a piece of each result.
        inputs: tensors of one shape, floating-point ones.
        dtypes: of the results, in the order in which `rule` gives them.

    Raises:
        JobFailed: a result leaves the range of its dtype.
    """
    results: list[Array] = [np.empty(inputs[0].shape, dtype) for dtype in dtypes]
    flats = [array.reshape(-1) for array in inputs]
    out = [array.reshape(-1) for array in results]
    for start in range(0, flats[0].size, _PIECE):
        where = slice(start, min(start + _PIECE, flats[0].size))
        with np.errstate(over="ignore", invalid="ignore"):  # looked at below
            pieces = rule(*(widen(flat[where], np.empty(where.stop - start)) for flat in flats))
        for piece, flat in zip(pieces, out, strict=True):
            narrow(piece, flat[where])
            if not all_finite(flat[where]):
                raise JobFailed(
                    f"tensor {name!r} leaves the range of {flat.dtype} in this round",
                    hint="the run diverges: try a smaller learning rate",
                )
    return results
