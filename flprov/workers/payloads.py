# SPDX-License-Identifier: Apache-2.0
"""Tensors between a worker and its parent: small ones inside the frame, others as files."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from flprov.errors import ProtocolError
from flprov.messages import Encoding, Tensors
from flprov.wire import encode_tensors, pb, write_tensors

INLINE = 64 << 10  # bytes; above it a file is cheaper than the copies


def open_payload(payload: pb.Payload, folder: Path) -> Path | bytes:
    """Where the bytes of `payload` are: a file in the `in` folder of the job's `folder`, or here.

    Raises:
        ProtocolError: the parent named no file in that folder, or bytes that are elsewhere.
    """
    where = payload.WhichOneof("where")
    if where == "file":
        if "/" in payload.file or payload.file in ("", ".", ".."):
            raise ProtocolError(f"the parent handed in {payload.file!r}, which is not a bare file name")
        return folder / "in" / payload.file
    if where == "inline":
        return payload.inline
    raise ProtocolError("the parent handed in tensors neither by value nor as a file")


def make_payload(
    tensors: Tensors,
    metadata: Mapping[str, str],
    folder: Path,
    *,
    most: int = INLINE,
    encoding: Mapping[str, Encoding] | None = None,
) -> pb.Payload:
    """`tensors` as bytes, at `most` so many, or as a new file in the `out` folder of the job's `folder`.

    The parent takes the file from there and removes it.

    Raises:
        Misuse: a tensor has a dtype that cannot travel.
    """
    if sum(array.nbytes for array in tensors.values()) <= most:
        data = encode_tensors(tensors, metadata, encoding)
        if len(data) <= most:  # thousands of tiny tensors have a long header
            return pb.Payload(inline=data, size=len(data))
    name = f"{secrets.token_hex(8)}.safetensors"  # new also after a restart, when old files may be there
    size = write_tensors(folder / "out" / name, tensors, metadata, encoding)
    return pb.Payload(file=name, size=size)
