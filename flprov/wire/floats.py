# SPDX-License-Identifier: Apache-2.0
"""Floating-point numbers of any width to float64 and back, bfloat16 included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


def widen(values: Array, out: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put `values` into `out` as float64, which holds each of them exactly."""
    if values.dtype.names:  # BF16 is the upper half of a float32
        bits: NDArray[Any] = values.view(np.uint16).astype(np.uint32) << 16
        values = bits.view(np.float32)
    np.copyto(out, values, casting="unsafe")
    return out


def narrow(values: NDArray[np.float64], out: Array) -> None:
    """Put `values` into `out`, rounded to its dtype (to nearest, ties to even)."""
    if not out.dtype.names:
        with np.errstate(over="ignore"):  # the caller looks at the result
            np.copyto(out, values, casting="unsafe")
        return
    with np.errstate(over="ignore"):
        bits: NDArray[Any] = values.astype(np.float32).view(np.uint32)
    bits = bits + (0x7FFF + ((bits >> 16) & 1))
    out.view(np.uint16)[...] = (bits >> 16).astype(np.uint16)
