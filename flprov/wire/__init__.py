# SPDX-License-Identifier: Apache-2.0
"""What travels and how it is spelled: messages, frames, documents, tensors, the protocol version.

What needs numpy, and what only workers and their parents speak of, is imported when it is first asked for:
most commands never do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.wire import flprov_pb2 as pb
from flprov.wire.failures import error_of, failure_of
from flprov.wire.frames import HEADER_SIZE, MAX_FRAME, frame_length, pack_frame, parse_frame
from flprov.wire.parsing import Message, parse_message
from flprov.wire.version import OLDEST, PROTOCOL, verify_protocol

if TYPE_CHECKING:
    from flprov.wire.dtypes import dtype_name, numpy_dtype
    from flprov.wire.encoding_header import read_encodings, tensor_infos
    from flprov.wire.encodings import round_into
    from flprov.wire.finite_files import FiniteFiles
    from flprov.wire.floats import narrow, widen
    from flprov.wire.mapped import give_back, is_untouched, mapping_of
    from flprov.wire.sameness import gaps, unchanged, verify_same
    from flprov.wire.scratch import Shaped, make_room
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
    from flprov.wire.spans import PIECE, each_span, pieces
    from flprov.wire.tensor_file import TensorFile
    from flprov.wire.tensor_header import TensorInfo
    from flprov.wire.tensors import encode_tensors, read_metadata, read_model, read_tensors, write_tensors
    from flprov.wire.update_checks import format_kinds, parse_kinds, verify_numbers, verify_update
    from flprov.wire.witness import witness_bytes

__all__ = [
    "HEADER_SIZE",
    "LIVE",
    "MAX_FRAME",
    "OLDEST",
    "PIECE",
    "PROTOCOL",
    "ROUND",
    "FiniteFiles",
    "Message",
    "SeriesEnd",
    "SeriesFull",
    "SeriesJob",
    "SeriesLine",
    "SeriesPoint",
    "SeriesSent",
    "Shaped",
    "TensorFile",
    "TensorInfo",
    "dtype_name",
    "each_span",
    "encode_series",
    "encode_tensors",
    "error_of",
    "failure_of",
    "format_kinds",
    "frame_length",
    "gaps",
    "give_back",
    "is_untouched",
    "make_room",
    "mapping_of",
    "narrow",
    "numpy_dtype",
    "pack_frame",
    "parse_frame",
    "parse_kinds",
    "parse_message",
    "pb",
    "pieces",
    "read_encodings",
    "read_metadata",
    "read_model",
    "read_series",
    "read_tensors",
    "round_into",
    "tensor_infos",
    "unchanged",
    "verify_numbers",
    "verify_protocol",
    "verify_same",
    "verify_update",
    "widen",
    "witness_bytes",
    "write_tensors",
]

_LATE = {
    "FiniteFiles": "finite_files",
    "gaps": "sameness",
    "unchanged": "sameness",
    "verify_same": "sameness",
    "LIVE": "series",
    "PIECE": "spans",
    "ROUND": "series",
    "SeriesEnd": "series",
    "SeriesFull": "series",
    "SeriesJob": "series",
    "SeriesLine": "series",
    "SeriesPoint": "series",
    "SeriesSent": "series",
    "Shaped": "scratch",
    "TensorFile": "tensor_file",
    "TensorInfo": "tensor_header",
    "dtype_name": "dtypes",
    "each_span": "spans",
    "encode_series": "series",
    "encode_tensors": "tensors",
    "format_kinds": "update_checks",
    "give_back": "mapped",
    "is_untouched": "mapped",
    "make_room": "scratch",
    "mapping_of": "mapped",
    "narrow": "floats",
    "numpy_dtype": "dtypes",
    "parse_kinds": "update_checks",
    "pieces": "spans",
    "read_encodings": "encoding_header",
    "read_metadata": "tensors",
    "read_model": "tensors",
    "read_series": "series",
    "read_tensors": "tensors",
    "round_into": "encodings",
    "tensor_infos": "encoding_header",
    "verify_numbers": "update_checks",
    "verify_update": "update_checks",
    "widen": "floats",
    "witness_bytes": "witness",
    "write_tensors": "tensors",
}

__getattr__ = lazy_names(__name__, _LATE)
