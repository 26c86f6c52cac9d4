# SPDX-License-Identifier: Apache-2.0
"""Whatever job code holds its weights in, to tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.messages import Tensors
from flprov.wire import dtype_name


def is_torch(value: object) -> bool:
    """Whether `value` is of a torch type, found out without importing torch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(value).__mro__)


def as_tensors(params: Mapping[str, object]) -> Tensors:
    """numpy arrays of the arrays, torch tensors, numbers or lists in `params`; no copy where none is due.

    Raises:
        Misuse: a value is not an array of numbers; the message names it.
    """
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
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise Misuse(f"tensor {name!r} is no array of numbers: {error}") from error
    if dtype_name(array.dtype) is None:
        raise Misuse(f"tensor {name!r} is no array of numbers that can travel: its dtype is {array.dtype}")
    return array
