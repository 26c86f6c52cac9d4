# SPDX-License-Identifier: Apache-2.0
"""The door to torch: state dicts to tensors and back, bit by bit. Import it late: it imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.messages import Tensors
from flprov.wire import numpy_dtype

Array = NDArray[np.generic]

# dtypes that numpy lacks: their name on the wire, and the torch integers of the same width
_BITS: dict[torch.dtype, tuple[str, torch.dtype]] = {
    torch.bfloat16: ("BF16", torch.int16),
    torch.float8_e4m3fn: ("F8_E4M3", torch.uint8),
    torch.float8_e5m2: ("F8_E5M2", torch.uint8),
}
if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7
    _BITS[torch.float8_e8m0fnu] = ("F8_E8M0", torch.uint8)
_TORCH = {name: (dtype, bits) for dtype, (name, bits) in _BITS.items()}


def from_torch(name: str, value: object) -> Array:
    """A tensor or parameter as an array, which shares its memory when it is on the CPU.

    Raises:
        Misuse: it is no dense tensor, e.g. a sparse or quantized one, or a module's extra state.
    """
    if not isinstance(value, torch.Tensor):
        raise Misuse(f"{name!r} in a state dict is a {type(value).__name__}, not a tensor")
    if value.layout is not torch.strided or value.is_quantized or value.is_meta:
        raise Misuse(f"tensor {name!r} is not dense ({value.layout}, {value.dtype} on {value.device})")
    tensor = value.detach().resolve_conj().resolve_neg().cpu().contiguous()
    try:
        if tensor.dtype not in _BITS:
            return tensor.numpy()
        dtype, bits = _BITS[tensor.dtype]
        return tensor.view(bits).numpy().view(numpy_dtype(dtype))
    except (TypeError, RuntimeError) as error:
        raise Misuse(f"tensor {name!r} is {tensor.dtype}, which cannot travel") from error


def to_torch(array: Array) -> torch.Tensor:
    """A CPU tensor over the memory of `array`; over a copy where that is read-only."""
    if not array.flags.writeable:
        array = array.copy()
    if not array.dtype.names:
        return torch.from_numpy(array)
    (name,) = array.dtype.names
    if name not in _TORCH:
        raise Misuse(f"this torch ({torch.__version__}) has no dtype {name}")
    dtype, bits = _TORCH[name]
    return torch.from_numpy(array.view(np.int16 if bits is torch.int16 else np.uint8)).view(dtype)


def from_state_dict(state: Mapping[str, Any]) -> Tensors:
    """The tensors of a state dict, integer buffers such as `num_batches_tracked` included."""
    return {name: from_torch(name, value) for name, value in state.items()}


def to_state_dict(tensors: Tensors) -> dict[str, torch.Tensor]:
    """What `load_state_dict` takes."""
    return {name: to_torch(array) for name, array in tensors.items()}
