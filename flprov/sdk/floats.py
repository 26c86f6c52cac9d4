# SPDX-License-Identifier: Apache-2.0
"""Which tensors there is arithmetic for, and the way of any width to float64 and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.wire import dtype_name, narrow, widen

__all__ = ["all_finite", "is_float", "narrow", "widen"]

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


def all_finite(values: Array) -> bool:
    """Whether none of these floating-point numbers is NaN or infinite."""
    if values.dtype.names:
        return bool(((values.view(np.uint16) & 0x7F80) != 0x7F80).all())
    return bool(np.isfinite(values).all())
