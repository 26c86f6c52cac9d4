# SPDX-License-Identifier: Apache-2.0
"""Whatever job code holds its weights in, to tensors: numpy, torch, JAX, TensorFlow, Keras; none is imported.

JAX's arrays and TensorFlow's tensors and variables give numpy their memory themselves. Their bfloat16 and
8-bit floats are numpy dtypes of the package ml_dtypes, which whoever receives them may lack: they travel as
the structured dtypes of `flprov.wire`, bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.messages import Tensors
from flprov.wire import dtype_name, numpy_dtype

# By the names that ml_dtypes gives them.
_SMALL_FLOATS = {
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
}


def is_torch(value: object) -> bool:
    """Whether `value` is of a torch type, found out without importing torch."""
    return not isinstance(value, np.ndarray) and any(
        kind.__module__.partition(".")[0] == "torch" for kind in type(value).__mro__
    )


def as_tensors(params: Mapping[str, object] | Sequence[object]) -> Tensors:
    """numpy arrays of the arrays, tensors, numbers or lists in `params`; no copy where none is due.

    A list, such as Keras' `get_weights()`, is named "0000", "0001", ...: sorted by name it is in order again.

    Raises:
        Misuse: a value is not an array of numbers; the message names it.
    """
    if isinstance(params, list | tuple):
        params = {f"{number:04d}": value for number, value in enumerate(params)}
    if not isinstance(params, Mapping):
        raise Misuse(f"params must be a mapping from name to array, not {type(params).__name__}")
    return {_verify_key(name): _as_array(name, value) for name, value in params.items()}


def _verify_key(name: object) -> str:
    if not isinstance(name, str):
        raise Misuse(f"the name of a tensor must be a text, not {name!r}")
    return name


def _as_array(name: str, value: object) -> NDArray[np.generic]:
    if is_torch(value):
        from flprov.sdk.torch_tensors import from_torch

        return from_torch(name, value)
    if isinstance(value, Mapping):
        raise Misuse(
            f"{name!r} is a mapping of its own, not an array",
            hint='give each array its name: {"dense/kernel": ..., "dense/bias": ...}',
        )
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise Misuse(f"tensor {name!r} is no array of numbers: {error}") from error
    if dtype_name(array.dtype) is not None:
        return array
    small = _SMALL_FLOATS.get(array.dtype.name)
    if small is None:
        raise Misuse(f"tensor {name!r} is no array of numbers that can travel: its dtype is {array.dtype}")
    return np.ascontiguousarray(array).view(numpy_dtype(small)).reshape(array.shape)
