# SPDX-License-Identifier: Apache-2.0
"""Which bytes of one tensor file stand in another: what a side that has the other need not be sent.

Tensors are the same when name, dtype, shape and bytes are. Where a model is fine-tuned with frozen layers,
most of them are; where all of it is trained none is, and a look at the beginning of each tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from flprov.errors import NotFound, ProtocolError
from flprov.wire.flprov_pb2 import SameBytes
from flprov.wire.tensor_header import open_tensor_file, read_header

_FIRST = 4 << 10  # bytes; two different tensors hardly ever begin with so many equal ones
_STEP = 1 << 20
_LEAST = 4 << 10  # bytes that are worth being named
MOST_RANGES = 10_000  # ranges that are named: each is a turn in another thread for who takes it


def unchanged(base: Path, new: Path) -> list[SameBytes]:
    """The ranges of `new` that stand in `base`, in order; none when one of them is no tensor file.

    Raises:
        OSError: one of them cannot be read.
    """
    try:
        with open_tensor_file(base) as old_file, open_tensor_file(new) as new_file:
            worth = (one for one in _joined(_same_tensors(old_file, new_file)) if one.size >= _LEAST)
            return list(islice(worth, MOST_RANGES))
    except (NotFound, ProtocolError):
        return []


def verify_same(same: Sequence[SameBytes], size: int, base_size: int) -> None:
    """Check ranges from a peer: in order, apart from each other, and inside of both files.

    Raises:
        ProtocolError: they are not.
    """
    if len(same) > MOST_RANGES:
        raise ProtocolError(
            f"a peer named {len(same)} ranges that two blobs share; at most {MOST_RANGES} may"
        )
    at = 0
    for one in same:
        if not (at <= one.offset < one.offset + one.size <= size and one.base_offset + one.size <= base_size):
            raise ProtocolError("a peer named bytes that are the same in two blobs where there are none")
        at = one.offset + one.size


def gaps(same: Sequence[SameBytes], size: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Begin and end of what does not stand in the base, from byte `start` on, in a file of `size` bytes."""
    for one in same:
        if start < one.offset:
            yield start, one.offset
        start = max(start, one.offset + one.size)
    if start < size:
        yield start, size


def _same_tensors(old_file: BinaryIO, new_file: BinaryIO) -> Iterator[SameBytes]:
    old, new = read_header(old_file), read_header(new_file)
    for name, info in sorted(new.tensors.items(), key=lambda item: item[1].start):
        known = old.tensors.get(name)
        if known is None or (known.dtype, known.shape) != (info.dtype, info.shape):
            continue
        found = SameBytes(
            offset=new.data_start + info.start,
            size=info.end - info.start,
            base_offset=old.data_start + known.start,
        )
        if found.size and _equal(old_file, new_file, found):
            yield found


def _equal(old_file: BinaryIO, new_file: BinaryIO, part: SameBytes) -> bool:
    done, step = 0, _FIRST
    while done < part.size:
        step = min(step, part.size - done)
        old_file.seek(part.base_offset + done)
        new_file.seek(part.offset + done)
        piece = new_file.read(step)
        if len(piece) != step or old_file.read(step) != piece:
            return False
        done, step = done + step, _STEP
    return True


def _joined(parts: Iterator[SameBytes]) -> Iterator[SameBytes]:
    """Neighbours in both files as one."""
    last: SameBytes | None = None
    for part in parts:
        if last is not None and (part.offset, part.base_offset) == (
            last.offset + last.size,
            last.base_offset + last.size,
        ):
            last.size += part.size
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last
