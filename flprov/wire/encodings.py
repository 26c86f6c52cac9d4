# SPDX-License-Identifier: Apache-2.0
"""Tensors in fewer bytes, without loss: half precision, eight bits and a scale, only what is not zero.

`round_into` makes numbers such that nothing is lost; writing looks whether that is so, and what would lose
is written whole. Everything goes piece by piece. encoding_header.py has the format.

Of eight bits the scale is the least number of 16 significant bits that is not below max|x| / 127. With it
127 times the scale is exact in float32, so that it is found again from the rounded numbers, and rounding
twice is rounding once. The error is at most half a scale (and half a unit in the last place of the dtype).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import ProtocolError
from flprov.messages import Encoding, Precision
from flprov.wire.dtypes import DTYPES, NAMES
from flprov.wire.encoding_header import (
    DATA,
    INDICES,
    MOST_SPARSE,
    NARROW,
    SCALES,
    WIDER,
    EncodedTensor,
)
from flprov.wire.floats import narrow, widen
from flprov.wire.tensor_header import MAX_NAME, TensorInfo

Array = NDArray[np.generic]
Doubles = NDArray[np.float64]

PIECE = 1 << 16  # numbers looked at in one go
LARGEST: Mapping[str, float] = {
    "F16": 65504.0,
    "BF16": float.fromhex("0x1.FEp127"),
    "F32": float(np.finfo(np.float32).max),
    "F64": float(np.finfo(np.float64).max),
}
_LEAST_SCALE = 2.0**-126  # the least normal float32; with 16 significant bits its multiples are exact
_STEPS = 127


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor as it stands in a file."""

    dtype: str
    shape: tuple[int, ...]
    size: int  # bytes
    chunks: Callable[[], Iterator[memoryview]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A tensor that can travel in parts: what they are, and what the metadata say of it."""

    info: TensorInfo
    encoding: Encoding
    entries: Mapping[str, Entry]


def round_into(values: Array, out: Array, encoding: Encoding) -> None:
    """Put `values` into `out`, of the same dtype, rounded so that `encoding` loses nothing.

    Half precision takes what is beyond 65504 as 65504. What the precision does not work on is copied.
    """
    source, target = values.reshape(-1), out.reshape(-1)
    precision = encoding.precision
    if precision is None or not source.size or NAMES[values.dtype] not in WIDER[precision]:
        target[...] = source
        return
    scales = _scales(source, encoding)
    for where in _pieces(source.size, encoding.block):
        small = _encode(source[where], _of_piece(scales, where, encoding.block), encoding)
        _decode(small, _of_piece(scales, where, encoding.block), target[where])


def plan_encoding(name: str, array: Array, encoding: Encoding) -> Plan | None:
    """How `array`, of one of our dtypes, travels by `encoding`; None when whole: it would lose, or gain
    nothing.
    """
    flat = array.reshape(-1)
    dtype = NAMES[array.dtype]
    if encoding.precision is not None and dtype not in WIDER[encoding.precision]:
        encoding = replace(encoding, precision=None, block=0)
    if flat.size == 0 or len(name) + len(INDICES) > MAX_NAME:
        return None
    scales = _scales(flat, encoding)
    if encoding.precision is not None and not _is_lossless(flat, scales, encoding):
        encoding, scales = replace(encoding, precision=None, block=0), None
    item = DTYPES[dtype if encoding.precision is None else NARROW[encoding.precision]].itemsize
    if encoding.sparse:
        kept = sum(int(np.count_nonzero(_bits(flat[where]))) for where in _pieces(flat.size, 0))
        pays = kept * (item + 4) < flat.size * item and flat.size <= MOST_SPARSE
        encoding = replace(encoding, sparse=pays)
    if encoding == Encoding():
        return None
    shape = (kept,) if encoding.sparse else array.shape
    data = dtype if encoding.precision is None else NARROW[encoding.precision]
    entries = {name + DATA: _entry(data, shape, lambda: _numbers(flat, scales, encoding))}
    if scales is not None:
        entries[name + SCALES] = _entry("F32", scales.shape, lambda: iter([scales]))
    if encoding.sparse:
        entries[name + INDICES] = _entry("U32", shape, lambda: _places(flat))
    info = TensorInfo(dtype=dtype, shape=array.shape, start=0, end=array.nbytes)
    return Plan(info=info, encoding=encoding, entries=entries)


def decode_tensor(name: str, tensor: EncodedTensor, parts: Mapping[str, Array], out: Array) -> None:
    """Put what `parts` hold of `tensor` into `out`, which is zero where it has nothing.

    Raises:
        ProtocolError: a number has its place outside the tensor.
    """
    target, encoding = out.reshape(-1), tensor.encoding
    data = parts[name + DATA].reshape(-1)
    scales: NDArray[Any] | None = parts.get(name + SCALES)
    if not encoding.sparse:
        for where in _pieces(data.size, encoding.block):
            _decode(data[where], _of_piece(scales, where, encoding.block), target[where])
        return
    places: NDArray[Any] = parts[name + INDICES]
    for where in _pieces(data.size, 0):
        at = places[where]
        if int(at.max()) >= target.size:
            raise ProtocolError(f"tensor {name!r} has a number at place {int(at.max())} of {target.size}")
        found = np.empty(at.size, target.dtype)
        own = scales if scales is None or not encoding.block else scales[at // encoding.block]
        _decode(data[where], own, found)
        target[at] = found


# ---- pieces ------------------------------------------------------------------------------------


def _entry(dtype: str, shape: tuple[int, ...], arrays: Callable[[], Iterator[Array]]) -> Entry:
    def chunks() -> Iterator[memoryview]:
        for array in arrays():
            if array.nbytes:
                yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

    return Entry(dtype=dtype, shape=shape, size=DTYPES[dtype].itemsize * math.prod(shape), chunks=chunks)


def whole_entry(array: Array) -> Entry:
    """A tensor that travels as it is."""
    return _entry(NAMES[array.dtype], array.shape, lambda: iter([array]))


def _pieces(size: int, block: int) -> Iterator[slice]:
    """In whole blocks."""
    step = PIECE // block * block if block else PIECE
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _wide(piece: Array) -> Doubles:
    return widen(piece, np.empty(piece.size))


def _bits(piece: Array) -> NDArray[Any]:
    return piece.view(f"u{piece.dtype.itemsize}") if piece.dtype.itemsize <= 8 else piece


def _scales(flat: Array, encoding: Encoding) -> NDArray[np.float32] | None:
    """The scale of each block, or of the whole; infinite where there is none in float32."""
    if encoding.precision is not Precision.INT8:
        return None
    most = []
    for where in _pieces(flat.size, encoding.block):
        piece = np.abs(_wide(flat[where]))
        starts = range(0, piece.size, encoding.block) if encoding.block else [0]
        most.append(np.maximum.reduceat(piece, list(starts)))
    found = np.concatenate(most) if encoding.block else np.max(np.stack(most), axis=0)
    share, exponent = np.frexp(found / _STEPS)
    scales = np.ldexp(np.ceil(share * 2**16) / 2**16, exponent)
    with np.errstate(over="ignore"):
        fit: NDArray[np.float32] = np.maximum(scales, _LEAST_SCALE).astype(np.float32)
    return fit


def _of_piece(scales: NDArray[Any] | None, where: slice, block: int) -> NDArray[Any] | None:
    """The scale of every number of a piece; one for all, if there is but one."""
    if scales is None or not block:
        return scales
    own = scales[where.start // block : -(-where.stop // block)]
    return np.repeat(own, block)[: where.stop - where.start]


def _encode(piece: Array, scales: NDArray[Any] | None, encoding: Encoding) -> Array:
    if encoding.precision is None:
        return piece
    wide = _wide(piece)
    if encoding.precision is Precision.FP16:
        return np.clip(wide, -LARGEST["F16"], LARGEST["F16"]).astype(np.float16)
    assert scales is not None
    with np.errstate(invalid="ignore"):  # NaN and infinity are found to be lost
        steps: Array = np.clip(np.rint(wide / scales), -_STEPS, _STEPS).astype(np.int8)
    return steps


def _decode(small: Array, scales: NDArray[Any] | None, out: Array) -> None:
    if scales is None:
        out[...] = small
        return
    limit = LARGEST[NAMES[out.dtype]]
    narrow(np.clip(_wide(small) * scales, -limit, limit), out)


def _is_lossless(flat: Array, scales: NDArray[Any] | None, encoding: Encoding) -> bool:
    if scales is not None and not np.isfinite(scales).all():
        return False
    for where in _pieces(flat.size, encoding.block):
        own = _of_piece(scales, where, encoding.block)
        back = np.empty(where.stop - where.start, flat.dtype)
        _decode(_encode(flat[where], own, encoding), own, back)
        if not np.array_equal(_bits(back), _bits(flat[where])):
            return False
    return True


def _numbers(flat: Array, scales: NDArray[Any] | None, encoding: Encoding) -> Iterator[Array]:
    for where in _pieces(flat.size, encoding.block):
        small = _encode(flat[where], _of_piece(scales, where, encoding.block), encoding)
        yield small[_bits(flat[where]) != 0] if encoding.sparse else small


def _places(flat: Array) -> Iterator[Array]:
    for where in _pieces(flat.size, 0):
        yield (np.flatnonzero(_bits(flat[where])) + where.start).astype("<u4")
