# SPDX-License-Identifier: Apache-2.0
"""Named tensors to safetensors bytes and files, and back.

The same tensors always give the same bytes. Files are mapped copy-on-write: a tensor can be
written to, and the file stays as it is. What travelled in fewer bytes is decoded by whoever reads.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flprov._base import open_to_fill
from flprov.errors import Misuse, ProtocolError
from flprov.messages import Encoding, Tensors
from flprov.wire.dtypes import DTYPES, dtype_name
from flprov.wire.encoding_header import KEY, decoded_infos, describe_encodings, read_encoded
from flprov.wire.encodings import Entry, decode_tensor, plan_encoding, whole_entry
from flprov.wire.scratch import make_room
from flprov.wire.tensor_header import (
    TensorHeader,
    TensorInfo,
    build_header,
    open_tensor_file,
    place_tensors,
    read_header,
)

Array = NDArray[np.generic]


def read_tensors(source: Path | bytes, *, scratch: Path | None = None, sparse: bool = True) -> Tensors:
    """The tensors of a safetensors file, mapped copy-on-write, or of its bytes, copied once.

    Those that travelled in fewer bytes are decoded, into a file without a name in the folder `scratch`, so
    that they need no memory; without that folder, into memory.

    Args:
        source: the file, or its bytes.
        scratch: a folder to decode into.
        sparse: whether tensors may be sparse: their size is bounded by nothing but what they are checked
            against, as updates are against their task.

    Raises:
        ProtocolError: it is no safetensors file; the message names the tensor.
        NotFound: there is no such file.
        OSError: there is no room to decode into.
    """
    return read_model(source, scratch=scratch, sparse=sparse)[0]


def read_model(
    source: Path | bytes, *, scratch: Path | None = None, sparse: bool = True
) -> tuple[Tensors, Mapping[str, str]]:
    """`read_tensors` and `read_metadata` of one file, opened once."""
    data: mmap.mmap | bytearray
    if isinstance(source, bytes):
        data, header = bytearray(source), read_header(source)
    else:
        with open_tensor_file(source) as file:
            header = read_header(file)  # also refuses the empty file, which mmap cannot take
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return _decoded(data, header, scratch, sparse=sparse), _metadata(header)


def read_metadata(source: Path | bytes) -> Mapping[str, str]:
    """The texts that `write_tensors` put beside the tensors. Raises like `read_tensors`."""
    return _metadata(read_header(source))


def _metadata(header: TensorHeader) -> Mapping[str, str]:
    return {key: text for key, text in header.metadata.items() if key != KEY}


def encode_tensors(
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    encoding: Mapping[str, Encoding] | None = None,
) -> bytes:
    """The safetensors bytes of `tensors`; those in `encoding` in fewer bytes, where that loses nothing.

    Raises:
        Misuse: a tensor has a dtype that safetensors does not know; the message names it.
        ProtocolError: a tensor's name is empty, overlong or unprintable.
    """
    return b"".join(_chunks(*_lay_out(tensors, metadata or {}, encoding or {})))


def write_tensors(
    path: Path,
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    encoding: Mapping[str, Encoding] | None = None,
) -> int:
    """Write `tensors` to the new file `path`, which is not synced; its size. Raises like `encode_tensors`."""
    header, entries = _lay_out(tensors, metadata or {}, encoding or {})
    size = len(header) + sum(entry.size for entry in entries)
    number = open_to_fill(path, size)
    try:
        for chunk in _chunks(header, entries):
            _write_all(number, chunk)
    finally:
        os.close(number)
    return size


def _decoded(
    data: mmap.mmap | bytearray, header: TensorHeader, scratch: Path | None, *, sparse: bool
) -> dict[str, Array]:
    encoded = read_encoded(header)
    found = _cut(data, header)
    if not encoded:
        return found
    for name, tensor in encoded.items():
        if tensor.encoding.sparse and not sparse:
            raise ProtocolError(f"tensor {name!r} is sparse; here tensors are not")
    infos = decoded_infos(header, encoded)
    wanted = {name: (DTYPES[infos[name].dtype], infos[name].shape) for name in encoded}
    room = make_room(wanted, scratch)
    for name, tensor in encoded.items():
        decode_tensor(name, tensor, found, room[name])
    return {name: room[name] if name in room else found[name] for name in infos}


def _cut(data: mmap.mmap | bytearray, header: TensorHeader) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for name, info in header.tensors.items():
        dtype = DTYPES[info.dtype]
        count = (info.end - info.start) // dtype.itemsize
        start = header.data_start + info.start
        flat = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
        if not flat.flags.aligned:  # a foreign writer; torch and some loops want it aligned
            flat = flat.copy()
        found[name] = flat.reshape(info.shape)
    return found


def _lay_out(
    tensors: Tensors, metadata: Mapping[str, str], encoding: Mapping[str, Encoding]
) -> tuple[bytes, list[Entry]]:
    """Header and data, in the order of the file."""
    entries: dict[str, Entry] = {}
    encoded: dict[str, tuple[TensorInfo, Encoding]] = {}
    for name, array in tensors.items():
        ready = _little_endian(name, array)
        plan = plan_encoding(name, ready, encoding[name]) if name in encoding else None
        if plan is None or not plan.entries.keys().isdisjoint(tensors):
            entries[name] = whole_entry(ready)
        else:
            entries |= plan.entries
            encoded[name] = plan.info, plan.encoding
    infos = place_tensors({name: (entry.dtype, entry.shape) for name, entry in entries.items()})
    said = {KEY: describe_encodings(encoded)} if encoded else {}
    return build_header(infos, {**metadata, **said}), [entries[name] for name in infos]


def _chunks(header: bytes, entries: Iterable[Entry]) -> Iterator[bytes | memoryview]:
    yield header
    for entry in entries:
        yield from entry.chunks()


def _little_endian(name: str, array: Array) -> Array:
    dtype = dtype_name(array.dtype)
    if dtype is None:
        raise Misuse(
            f"tensor {name!r} has the dtype {array.dtype}, which cannot travel",
            hint=f"convert it to one of {', '.join(DTYPES)}",
        )
    return np.asarray(array, dtype=DTYPES[dtype], order="C")


def _write_all(descriptor: int, part: bytes | memoryview) -> None:
    view = memoryview(part)
    while view:
        view = view[os.write(descriptor, view) :]
