# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file, read as what it is: bytes from somebody else.

    8 bytes   length of the header, little-endian
    header    a JSON object: name -> {"dtype", "shape", "data_offsets": [start, end]}
    data      the tensors, little-endian, C order; offsets count from here

Format: https://huggingface.co/docs/safetensors, section "Format". The tensors must tile the data:
no overlap, no gap, nothing behind the last one. No numpy here, so that a server can look at the
names and shapes of a model cheaply.
"""

from __future__ import annotations

import errno
import functools
import itertools
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from flprov._base import parse_json
from flprov.errors import NotFound, ProtocolError

PREFIX_SIZE = 8
MAX_HEADER = 16 << 20
MAX_TENSORS = 65_536
MAX_NAME = 1024  # characters
MAX_RANK = 32  # what numpy 1 can hold
ALIGNMENT = 8  # of the data in files that we write
# One JSON item costs Python up to 64 bytes, so 16 MiB of "[[],[],..." would become 350 MB.
_MAX_ITEMS = 16 * MAX_TENSORS
# The updates of a round have the same header, to the byte: the last ones that were read are kept.
_KEPT = 8
_LONGEST_KEPT = 64 << 10  # bytes

ITEM_SIZES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What the header says of one tensor; `start` and `end` count from the first byte of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """A whole header, verified; `data_start` counts from the first byte of the file."""

    tensors: Mapping[str, TensorInfo]
    data_start: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def open_tensor_file(path: Path) -> BinaryIO:
    """Open `path` for reading if it is a regular file, and not a link, pipe or device.

    Raises:
        NotFound: there is no such file.
        ProtocolError: it is something else, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no tensor file {path.name!r}") from None
    except OSError as error:
        what = "a link" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise ProtocolError(f"tensor file {path.name!r} cannot be read: {what}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ProtocolError(f"tensor file {path.name!r} is not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def read_header(source: Path | bytes | BinaryIO) -> TensorHeader:
    """The verified header of a safetensors file (a path, an open file) or of its bytes.

    Raises:
        ProtocolError: it is not one; the message names the tensor where there is one to name.
        NotFound: there is no such file.
    """
    if isinstance(source, bytes):
        length = header_length(source[:PREFIX_SIZE], len(source))
        return parse_header(source[PREFIX_SIZE : PREFIX_SIZE + length], len(source))
    if isinstance(source, Path):
        with open_tensor_file(source) as file:
            return read_header(file)
    size = os.fstat(source.fileno()).st_size
    source.seek(0)
    length = header_length(source.read(PREFIX_SIZE), size)
    return parse_header(source.read(length), size)


def header_length(prefix: bytes, size: int) -> int:
    """How long the header is that follows `prefix`, before anything is allocated for it."""
    if len(prefix) < PREFIX_SIZE:
        raise ProtocolError(f"a tensor file of {size} bytes is too short for its header")
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER:
        raise ProtocolError(f"a tensor file declares a header of {length} bytes; the limit is {MAX_HEADER}")
    if PREFIX_SIZE + length > size:
        raise ProtocolError(f"a tensor file declares a header of {length} bytes but has {size} in all")
    return length


def parse_header(text: bytes, size: int) -> TensorHeader:
    """The header whose JSON is `text`, in a file of `size` bytes."""
    return (_parse_kept if len(text) <= _LONGEST_KEPT else _parse)(text, size)


def _parse(text: bytes, size: int) -> TensorHeader:
    if sum(map(text.count, (b"{", b"[", b","))) > _MAX_ITEMS:
        raise ProtocolError(f"a tensor file declares more than {MAX_TENSORS} tensors")
    try:
        document = parse_json(text)
    except ValueError as error:  # also what is not UTF-8
        raise ProtocolError(f"the header of a tensor file is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ProtocolError("the header of a tensor file is not a JSON object")
    metadata = _parse_metadata(document.pop("__metadata__", {}))
    if len(document) > MAX_TENSORS:
        raise ProtocolError(f"a tensor file declares {len(document)} tensors; the limit is {MAX_TENSORS}")
    tensors = {verify_name(name): _parse_info(name, entry) for name, entry in document.items()}
    data_start = PREFIX_SIZE + len(text)
    _verify_tiling(tensors, size - data_start)
    return TensorHeader(tensors=tensors, data_start=data_start, metadata=metadata)


_parse_kept = functools.lru_cache(_KEPT)(_parse)


def build_header(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """Length and header for these tensors, padded so that the data starts at a multiple of 8."""
    document: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    for name, info in infos.items():
        document[verify_name(name)] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [info.start, info.end],
        }
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(PREFIX_SIZE, "little") + text


def place_tensors(wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, TensorInfo]:
    """Where tensors of these dtypes and shapes stand in a file of ours.

    Larger items come first, then by name: so each is aligned to its item.
    """
    infos: dict[str, TensorInfo] = {}
    end = 0
    for name in sorted(wanted, key=lambda name: (-ITEM_SIZES[wanted[name][0]], name)):
        dtype, shape = wanted[name]
        start, end = end, end + byte_size(name, dtype, list(shape))
        infos[name] = TensorInfo(dtype=dtype, shape=shape, start=start, end=end)
    return infos


def verify_name(name: str) -> str:
    """`name` if a tensor may have it: printable, not empty, not overlong."""
    if not name or name == "__metadata__" or len(name) > MAX_NAME or not name.isprintable():
        raise ProtocolError(f"a tensor has a name that is empty, overlong or unprintable: {ascii(name)[:80]}")
    return name


def _parse_metadata(entry: object) -> dict[str, str]:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ProtocolError("the metadata of a tensor file is not a mapping of texts")
    return entry


def _parse_info(name: str, entry: object) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ProtocolError(f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise ProtocolError(f"tensor {name!r} has the unknown dtype {ascii(dtype)[:40]}")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise ProtocolError(f"tensor {name!r} has a shape that is no list of up to {MAX_RANK} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ProtocolError(f"tensor {name!r} has data_offsets that are no pair of offsets")
    start, end = offsets
    if end - start != (size := byte_size(name, dtype, shape)):
        raise ProtocolError(f"tensor {name!r}: {dtype}{shape} takes {size} bytes, it has {end - start}")
    return TensorInfo(dtype=dtype, shape=tuple(shape), start=start, end=end)


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def byte_size(name: str, dtype: str, shape: list[int]) -> int:
    """Step by step, as a product of 32 sizes below 2^63 is a number of 600 digits."""
    size = ITEM_SIZES[dtype]
    for extent in shape:
        size *= max(extent, 1)  # a 0 must not hide an overflow elsewhere in the shape
        if size >= 1 << 63:
            raise ProtocolError(f"tensor {name!r} has a shape that overflows")
    return 0 if 0 in shape else size


def _verify_tiling(tensors: Mapping[str, TensorInfo], length: int) -> None:
    order = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end))
    if order and order[0][1].start != 0:
        raise ProtocolError(f"tensor {order[0][0]!r} is the first but starts at {order[0][1].start}")
    for (one, before), (name, info) in itertools.pairwise(order):
        if info.start != before.end:
            what = "overlaps" if info.start < before.end else "leaves a gap after"
            raise ProtocolError(f"tensor {name!r} {what} tensor {one!r}")
    end = order[-1][1].end if order else 0
    if end != length:
        last = f"tensor {order[-1][0]!r} ends at {end}" if order else "there are no tensors"
        raise ProtocolError(f"{last}, but a tensor file has {length} bytes of data")
