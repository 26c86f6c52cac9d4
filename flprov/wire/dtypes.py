# SPDX-License-Identifier: Apache-2.0
"""The dtypes of safetensors, in numpy.

numpy has no bfloat16 and no 8-bit floats; such tensors are arrays of a structured dtype with one field
that is named after theirs. They pass unharmed, and arithmetic on them raises a TypeError instead of adding
bit patterns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype([("F8_E4M3", "u1")]),
    "F8_E5M2": np.dtype([("F8_E5M2", "u1")]),
    "F8_E8M0": np.dtype([("F8_E8M0", "u1")]),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype([("BF16", "<u2")]),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype in which tensors of the safetensors dtype `name` are held."""
    return DTYPES[name]


def dtype_name(dtype: np.dtype[Any]) -> str | None:
    """The safetensors name of a numpy dtype, of either byte order; None when it has none."""
    return NAMES.get(dtype) or NAMES.get(dtype.newbyteorder("<"))
