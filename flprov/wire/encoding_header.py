# SPDX-License-Identifier: Apache-2.0
"""Tensors that travel in fewer bytes, as the header of a tensor file declares them; read as hostile input.

The metadata key `flprov.encodings` holds a JSON object: name -> {"dtype", "shape", "precision", "block",
"sparse"}, the tensor as whoever receives it sees it. In its place the file has these entries:

    NAME@data      the numbers: F16 for fp16, I8 for int8, else the tensor's dtype; in its shape, or, of a
                   sparse tensor, the n that are not zero
    NAME@scales    of int8: F32, one for each block of numbers (of the whole tensor, where there are none)
    NAME@indices   of a sparse tensor: U32, where its n numbers stand in C order, strictly increasing

What a number is once it is decoded: fp16, itself; int8, its scale times it in float64, rounded to the
dtype. No numpy here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flprov._base import from_document, parse_json
from flprov.errors import ProtocolError
from flprov.messages import Encoding, Precision
from flprov.wire.tensor_header import (
    ITEM_SIZES,
    MAX_RANK,
    TensorHeader,
    TensorInfo,
    byte_size,
    read_header,
    verify_name,
)

KEY = "flprov.encodings"
DATA, SCALES, INDICES = "@data", "@scales", "@indices"
LEAST_BLOCK, MOST_BLOCK = 16, 1 << 16
MOST_SPARSE = 1 << 32  # numbers in a tensor whose places 32 bits can name

# What of each precision is decoded to which dtypes: those in which it saves something.
WIDER: Mapping[Precision, frozenset[str]] = {
    Precision.FP16: frozenset({"F32", "F64"}),
    Precision.INT8: frozenset({"F16", "BF16", "F32", "F64"}),
}
NARROW: Mapping[Precision, str] = {Precision.FP16: "F16", Precision.INT8: "I8"}


@dataclass(frozen=True, kw_only=True)
class _Row:
    dtype: str
    shape: tuple[int, ...]
    precision: Precision | None = None
    block: int = 0
    sparse: bool = False


@dataclass(frozen=True, kw_only=True)
class EncodedTensor:
    """A tensor that is in the file in parts."""

    info: TensorInfo  # as it is once decoded; its place counts from its own first byte
    encoding: Encoding
    data: TensorInfo
    scales: TensorInfo | None = None
    indices: TensorInfo | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the entries that it is made of; another entry with such a name is a tensor of its own."""
        scales = (SCALES,) if self.scales is not None else ()
        return (DATA, *scales, *((INDICES,) if self.indices is not None else ()))

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return count(self.info.shape)

    @property
    def block(self) -> int:
        """How many numbers share a scale."""
        return self.encoding.block or self.size


def count(shape: tuple[int, ...]) -> int:
    """How many numbers a tensor of this shape has."""
    total = 1
    for extent in shape:
        total *= extent
    return total


def tensor_infos(source: Path | bytes) -> Mapping[str, TensorInfo]:
    """Name -> dtype and shape of every tensor of a safetensors file or its bytes, as they are once decoded.

    Raises:
        ProtocolError: it is not one; the message names the tensor where there is one to name.
        NotFound: there is no such file.
    """
    header = read_header(source)
    return decoded_infos(header, read_encoded(header))


def read_encodings(source: Path | bytes) -> dict[str, Encoding]:
    """How the tensors of a file travelled that did not travel whole. Raises like `tensor_infos`."""
    return {name: tensor.encoding for name, tensor in read_encoded(read_header(source)).items()}


def describe_encodings(rows: Mapping[str, tuple[TensorInfo, Encoding]]) -> str:
    """The value of the metadata key for these tensors."""
    document = {}
    for name, (info, encoding) in sorted(rows.items()):
        row: dict[str, object] = {"dtype": info.dtype, "shape": list(info.shape)}
        if encoding.precision is not None:
            row["precision"] = encoding.precision.value
        if encoding.block:
            row["block"] = encoding.block
        if encoding.sparse:
            row["sparse"] = True
        document[name] = row
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def read_encoded(header: TensorHeader) -> dict[str, EncodedTensor]:
    """The encoded tensors of a file, by name; none in most.

    Raises:
        ProtocolError: the metadata declares what the file does not have; the message names the tensor.
    """
    text = header.metadata.get(KEY)
    if text is None:
        return {}
    try:
        rows = from_document(dict[str, _Row], parse_json(text), "encodings")
    except ValueError as error:
        raise ProtocolError(f"the encodings of a tensor file cannot be read: {error}"[:300]) from error
    return {name: _read_row(verify_name(name), row, header.tensors) for name, row in rows.items()}


def decoded_infos(header: TensorHeader, encoded: Mapping[str, EncodedTensor]) -> dict[str, TensorInfo]:
    """Name -> dtype and shape of every tensor of a file, as whoever receives it sees them."""
    parts = {name + suffix for name, tensor in encoded.items() for suffix in tensor.suffixes}
    whole = {name: info for name, info in header.tensors.items() if name not in parts}
    return whole | {name: tensor.info for name, tensor in encoded.items()}


def _read_row(name: str, row: _Row, entries: Mapping[str, TensorInfo]) -> EncodedTensor:
    if name in entries:
        raise ProtocolError(f"tensor {name!r} is there twice: whole and encoded")
    if row.dtype not in ITEM_SIZES:
        raise ProtocolError(f"tensor {name!r} has the unknown dtype {ascii(row.dtype)[:40]}")
    if len(row.shape) > MAX_RANK or any(extent < 0 for extent in row.shape):
        raise ProtocolError(f"tensor {name!r} has a shape that is no list of up to {MAX_RANK} sizes")
    info = TensorInfo(
        dtype=row.dtype, shape=row.shape, start=0, end=byte_size(name, row.dtype, list(row.shape))
    )
    encoding = Encoding(precision=row.precision, block=row.block, sparse=row.sparse)
    _verify_encoding(name, info, encoding)
    narrow = row.dtype if row.precision is None else NARROW[row.precision]
    data = _part(name, DATA, entries, narrow)
    size, indices, scales = count(row.shape), None, None
    if row.sparse:
        indices = _part(name, INDICES, entries, "U32")
        if not len(data.shape) == 1 or data.shape != indices.shape or data.shape[0] > size:
            raise ProtocolError(f"tensor {name!r} has {data} numbers at {indices} places of {size}")
    elif data.shape != row.shape:
        raise ProtocolError(f"tensor {name!r} is {info}, its numbers are {data}")
    if row.precision is Precision.INT8:
        scales = _part(name, SCALES, entries, "F32")
        wanted = -(-size // row.block) if row.block else 1
        if scales.shape != (wanted,):
            raise ProtocolError(f"tensor {name!r} needs {wanted} scales, it has {scales}")
    return EncodedTensor(info=info, encoding=encoding, data=data, scales=scales, indices=indices)


def _verify_encoding(name: str, info: TensorInfo, encoding: Encoding) -> None:
    if encoding.precision is None and not encoding.sparse:
        raise ProtocolError(f"tensor {name!r} is declared encoded, and is not")
    if encoding.precision is not None and info.dtype not in WIDER[encoding.precision]:
        raise ProtocolError(
            f"tensor {name!r} is {info.dtype}, which is not sent as {encoding.precision.value}"
        )
    if encoding.block and encoding.precision is not Precision.INT8:
        raise ProtocolError(f"tensor {name!r} has blocks, but no scales")
    if encoding.block and not LEAST_BLOCK <= encoding.block <= MOST_BLOCK:
        raise ProtocolError(
            f"tensor {name!r} has blocks of {encoding.block} numbers, not {LEAST_BLOCK} to {MOST_BLOCK}"
        )
    if encoding.sparse and count(info.shape) > MOST_SPARSE:
        raise ProtocolError(f"tensor {name!r} is sparse and has more than {MOST_SPARSE} numbers")


def _part(name: str, suffix: str, entries: Mapping[str, TensorInfo], dtype: str) -> TensorInfo:
    info = entries.get(name + suffix)
    if info is None:
        raise ProtocolError(f"tensor {name!r} is encoded, but the file has no {name + suffix!r}")
    if info.dtype != dtype:
        raise ProtocolError(f"tensor {name!r} needs its {suffix[1:]} as {dtype}, they are {info}")
    return info
