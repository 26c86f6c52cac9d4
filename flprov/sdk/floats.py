# SPDX-License-Identifier: Apache-2.0
"""Arithmetic on floating-point tensors of any width: to float64 and back, bfloat16 included."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.wire import dtype_name

Array = NDArray[np.generic]

_INTEGERS = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
_FLOATS = {"F16", "F32", "F64", "BF16"}


def is_float(array: Array, name: str) -> bool:
    """Whether tensor `name` holds real numbers to calculate with; False for integers and booleans.

    Raises:
        Misuse: neither (complex numbers, 8-bit floats); the message names the tensor.
    """
    dtype = dtype_name(array.dtype)
    if dtype in _FLOATS:
        return True
    if dtype in _INTEGERS:
        return False
    raise Misuse(
        f"tensor {name!r} is {dtype or array.dtype}; there is no arithmetic for that here",
        hint="convert it to F32, F16 or BF16, or send it in an update of kind opaque",
    )


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


def all_finite(values: Array) -> bool:
    """Whether none of these floating-point numbers is NaN or infinite."""
    if values.dtype.names:
        return bool(((values.view(np.uint16) & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(values).all())  # type: ignore[call-overload]  # the caller knows that they are floats
