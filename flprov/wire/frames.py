# SPDX-License-Identifier: Apache-2.0
"""Frames between a parent process and its worker: four bytes of length, then one message.

No I/O here: `flprov.workers.channel` moves the bytes.
"""

from __future__ import annotations

import struct
from typing import TypeVar

from google.protobuf.message import DecodeError

from flprov.errors import LocalError, ProtocolError
from flprov.wire import flprov_pb2 as pb

MAX_FRAME = 16 << 20  # what is larger passes as a file
HEADER_SIZE = 4
_HEADER = struct.Struct(">I")

M = TypeVar("M", pb.ToWorker, pb.FromWorker)


def pack_frame(message: pb.ToWorker | pb.FromWorker) -> bytes:
    """The frame that carries `message`.

    Raises:
        LocalError: the message is larger than a frame may be.
    """
    data = message.SerializeToString()
    if len(data) > MAX_FRAME:
        raise LocalError(
            f"a message of {len(data)} bytes does not fit into a frame of {MAX_FRAME}",
            hint="pass large tensors as files",
        )
    return _HEADER.pack(len(data)) + data


def frame_length(header: bytes) -> int:
    """How many bytes follow this header, before anything is allocated for them.

    Raises:
        ProtocolError: more than a frame may have.
    """
    (length,) = _HEADER.unpack(header)
    if length > MAX_FRAME:
        raise ProtocolError(f"a frame declares {length} bytes; the limit is {MAX_FRAME}")
    return int(length)


def parse_frame(kind: type[M], data: bytes) -> M:
    """The message of type `kind` in a frame's bytes, without what is unknown to us (see `parse_message`).

    Raises:
        ProtocolError: the bytes are no such message, or it is empty.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError("a frame arrived that holds no message of the protocol") from error
    if message.WhichOneof("body") is None:
        raise ProtocolError("a frame arrived with an empty message")
    message.DiscardUnknownFields()
    return message
