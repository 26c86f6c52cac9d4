# SPDX-License-Identifier: Apache-2.0
"""Named tensors to safetensors bytes and files, and back.

The same tensors always give the same bytes. Files are mapped copy-on-write: a tensor can be
written to, and the file stays as it is. numpy has no bfloat16 and no 8-bit floats; such tensors
are arrays of a structured dtype with one field that is named after theirs. They pass unharmed,
and arithmetic on them raises a TypeError instead of adding bit patterns.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import Misuse
from flprov.messages import Tensors
from flprov.wire.tensor_header import TensorHeader, TensorInfo, build_header, open_tensor_file, read_header

Array = NDArray[np.generic]

_DTYPES: dict[str, np.dtype[Any]] = {
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
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype in which tensors of the safetensors dtype `name` are held."""
    return _DTYPES[name]


def dtype_name(dtype: np.dtype[Any]) -> str | None:
    """The safetensors name of a numpy dtype, of either byte order; None when it has none."""
    return _NAMES.get(dtype.newbyteorder("<"))


def read_tensors(source: Path | bytes) -> Tensors:
    """The tensors of a safetensors file, mapped copy-on-write, or of its bytes, copied once.

    Raises:
        ProtocolError: it is no safetensors file; the message names the tensor.
        NotFound: there is no such file.
    """
    if isinstance(source, bytes):
        return _cut(bytearray(source), read_header(source))
    with open_tensor_file(source) as file:
        header = read_header(file)  # also refuses the empty file, which mmap cannot take
        return _cut(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), header)


def read_metadata(source: Path | bytes) -> Mapping[str, str]:
    """The texts that `write_tensors` put beside the tensors. Raises like `read_tensors`."""
    return read_header(source).metadata


def encode_tensors(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """The safetensors bytes of `tensors`.

    Raises:
        Misuse: a tensor has a dtype that safetensors does not know; the message names it.
        ProtocolError: a tensor's name is empty, overlong or unprintable.
    """
    return b"".join(bytes(part) for part in _parts(tensors, metadata))


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> int:
    """Write `tensors` to the new file `path`, which is not synced; its size. Raises like `encode_tensors`."""
    parts = list(_parts(tensors, metadata))
    size = sum(len(part) for part in parts)
    with open(path, "xb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        for part in parts:
            _write_all(file.fileno(), part)
    return size


def _cut(data: mmap.mmap | bytearray, header: TensorHeader) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, info in header.tensors.items():
        dtype = _DTYPES[info.dtype]
        count = (info.end - info.start) // dtype.itemsize
        start = header.data_start + info.start
        flat = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
        if not flat.flags.aligned:  # a foreign writer; torch and some loops want it aligned
            flat = flat.copy()
        found[name] = flat.reshape(info.shape)
    return found


def _parts(tensors: Tensors, metadata: Mapping[str, str] | None) -> Iterator[bytes | memoryview]:
    """Header, then data. Larger items come first, then by name: so each is aligned to its item."""
    ready = {name: _little_endian(name, array) for name, array in tensors.items()}
    order = sorted(ready, key=lambda name: (-ready[name].dtype.itemsize, name))
    infos: dict[str, TensorInfo] = {}
    end = 0
    for name in order:
        start, end = end, end + ready[name].nbytes
        dtype = _NAMES[ready[name].dtype]
        infos[name] = TensorInfo(dtype=dtype, shape=ready[name].shape, start=start, end=end)
    yield build_header(infos, metadata or {})
    for name in order:
        if ready[name].nbytes:
            yield ready[name].reshape(-1).view(np.uint8).data


def _little_endian(name: str, array: Array) -> Array:
    dtype = dtype_name(array.dtype)
    if dtype is None:
        raise Misuse(
            f"tensor {name!r} has the dtype {array.dtype}, which cannot travel",
            hint=f"convert it to one of {', '.join(_DTYPES)}",
        )
    return np.asarray(array, dtype=_DTYPES[dtype], order="C")


def _write_all(descriptor: int, part: bytes | memoryview) -> None:
    view = memoryview(part)
    while view:
        view = view[os.write(descriptor, view) :]
