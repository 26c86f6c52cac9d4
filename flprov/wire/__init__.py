# SPDX-License-Identifier: Apache-2.0
"""What travels and how it is spelled: messages, frames, documents, tensors, the protocol version.

What needs numpy is imported when it is first asked for: most commands never do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.wire import flprov_pb2 as pb
from flprov.wire.encoding_header import read_encodings, tensor_infos
from flprov.wire.failures import error_of, failure_of
from flprov.wire.frames import HEADER_SIZE, MAX_FRAME, frame_length, pack_frame, parse_frame
from flprov.wire.parsing import Message, parse_message
from flprov.wire.series import (
    LIVE,
    ROUND,
    SeriesEnd,
    SeriesFull,
    SeriesJob,
    SeriesLine,
    SeriesPoint,
    SeriesSent,
    encode_series,
    read_series,
)
from flprov.wire.tensor_header import TensorInfo
from flprov.wire.version import OLDEST, PROTOCOL, verify_protocol
from flprov.wire.witness import witness_bytes

if TYPE_CHECKING:
    from flprov.wire.dtypes import dtype_name, numpy_dtype
    from flprov.wire.encodings import round_into
    from flprov.wire.floats import narrow, widen
    from flprov.wire.scratch import make_room
    from flprov.wire.tensors import encode_tensors, read_metadata, read_tensors, write_tensors
    from flprov.wire.update_checks import format_kinds, parse_kinds, verify_numbers, verify_update

__all__ = [
    "HEADER_SIZE",
    "LIVE",
    "MAX_FRAME",
    "OLDEST",
    "PROTOCOL",
    "ROUND",
    "Message",
    "SeriesEnd",
    "SeriesFull",
    "SeriesJob",
    "SeriesLine",
    "SeriesPoint",
    "SeriesSent",
    "TensorInfo",
    "dtype_name",
    "encode_series",
    "encode_tensors",
    "error_of",
    "failure_of",
    "format_kinds",
    "frame_length",
    "make_room",
    "narrow",
    "numpy_dtype",
    "pack_frame",
    "parse_frame",
    "parse_kinds",
    "parse_message",
    "pb",
    "read_encodings",
    "read_metadata",
    "read_series",
    "read_tensors",
    "round_into",
    "tensor_infos",
    "verify_numbers",
    "verify_protocol",
    "verify_update",
    "widen",
    "witness_bytes",
    "write_tensors",
]

_WITH_NUMPY = {
    "dtype_name": "dtypes",
    "encode_tensors": "tensors",
    "format_kinds": "update_checks",
    "make_room": "scratch",
    "narrow": "floats",
    "numpy_dtype": "dtypes",
    "parse_kinds": "update_checks",
    "read_metadata": "tensors",
    "read_tensors": "tensors",
    "round_into": "encodings",
    "verify_numbers": "update_checks",
    "verify_update": "update_checks",
    "widen": "floats",
    "write_tensors": "tensors",
}

__getattr__ = lazy_names(__name__, _WITH_NUMPY)
