# SPDX-License-Identifier: Apache-2.0
"""Whether an update fits the task it answers: the checks before any aggregator sees it.

Run by our code at the agent and at the server, never by the job's. Files are read in pieces, by all
processors, and not mapped: whoever can truncate a mapped file kills the process that looks at it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flprov.errors import NotFound, ProtocolError, UpdateRefused
from flprov.messages import UpdateKind
from flprov.wire.dtypes import numpy_dtype
from flprov.wire.encoding_header import DATA, INDICES, SCALES, EncodedTensor, decoded_infos, read_encoded
from flprov.wire.encodings import LARGEST
from flprov.wire.finiteness import FINITE, neighbours
from flprov.wire.spans import each_span
from flprov.wire.tensor_header import TensorHeader, TensorInfo, open_tensor_file, read_header

MAX_SAMPLES = 1 << 53  # the whole numbers that a double holds exactly
MAX_METRICS = 256
MAX_METRIC_NAME = 128
MAX_METRIC = 1e100  # so that sums over sites and samples stay finite
_PIECE = 1 << 18  # bytes looked at in one go; a multiple of every item size


def format_kinds(kinds: Iterable[UpdateKind]) -> str:
    """The text of `expects` in a task: the kinds it takes; empty when it takes no tensors."""
    return ",".join(kind.value for kind in kinds)


def parse_kinds(text: str) -> tuple[UpdateKind, ...]:
    """The kinds that `format_kinds` wrote.

    Raises:
        ProtocolError: one of them is no kind of update.
    """
    try:
        return tuple(UpdateKind(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise ProtocolError(f"a task expects {text[:80]!r}, which are no kinds of update") from None


def verify_update(
    model: Mapping[str, TensorInfo] | None,
    update: Path | bytes,
    kind: str,
    expects: str,
    *,
    finite: bool = False,
) -> Mapping[str, TensorInfo]:
    """What is in `update`, a safetensors file or its bytes, if it fits its task.

    `full` and `diff` have the names, dtypes and shapes of `model`, the tensors that the task carried,
    and are finite, also where they are encoded: then they are what they will be once decoded. Where the
    task carried none, a `full` update chooses them, and none may be sparse, as nothing bounds its size.
    `opaque` is not looked into, and not encoded. A task that expects nothing (an empty text) takes no
    tensors. Memory is constant.

    Args:
        model: what the task carried; None or empty: nothing.
        update: the file, or its bytes.
        kind: what the update says that it is.
        expects: what the task takes, as `format_kinds` wrote it.
        finite: whether these very bytes are known to hold finite numbers only (see `FiniteFiles`).

    Raises:
        UpdateRefused: it does not fit; the message names the tensor.
    """
    taken = parse_kinds(expects)
    known = {member.value: member for member in UpdateKind}
    if kind not in known or (taken and known[kind] not in taken):
        raise UpdateRefused(f"the update is of kind {kind[:40]!r}, the task takes {expects or 'none'}")
    try:
        if isinstance(update, bytes):
            header = read_header(update)
            return _verify_contents(_Contents(header, update), model, known[kind], taken, finite=finite)
        with open_tensor_file(update) as file:
            header = read_header(file)
            contents = _Contents(header, file.fileno())
            return _verify_contents(contents, model, known[kind], taken, finite=finite)
    except (ProtocolError, NotFound) as error:
        raise UpdateRefused(f"the update is no tensor file: {error}") from error


def verify_numbers(
    samples: int, weight: float | None, metrics: Mapping[str, float], max_weight: float | None = None
) -> None:
    """Check what an update says besides its tensors.

    Args:
        samples: how many examples stand behind it.
        weight: what it counts instead of them, if anything.
        metrics: its metrics.
        max_weight: what it may count at most, if the job says so (`sites.max_weight`).

    Raises:
        UpdateRefused: `samples` or `weight` is not in 0..2^53, or the one that counts is above
            `max_weight`; a metric is not finite or has no fit name, or there are too many.
    """
    if not 0 <= samples <= MAX_SAMPLES:
        raise UpdateRefused(f"samples is {samples}; it must be from 0 to 2^53")
    if weight is not None and not 0 <= weight <= MAX_SAMPLES:  # also true of NaN
        raise UpdateRefused(f"weight is {weight}; it must be from 0 to 2^53")
    share = samples if weight is None else weight
    if max_weight is not None and share > max_weight:
        what = "samples" if weight is None else "weight"
        raise UpdateRefused(f"{what} is {share:.15g}; the job's sites.max_weight is {max_weight:.15g}")
    if len(metrics) > MAX_METRICS:
        raise UpdateRefused(f"there are {len(metrics)} metrics; the limit is {MAX_METRICS}")
    for name, value in metrics.items():
        if not name or len(name) > MAX_METRIC_NAME or not name.isprintable():
            raise UpdateRefused(
                f"a metric has a name that is empty, overlong or unprintable: {ascii(name)[:80]}"
            )
        if not math.isfinite(value):
            raise UpdateRefused(f"metric {name!r} is {value}; it must be a finite number")
        if abs(value) > MAX_METRIC:
            raise UpdateRefused(f"metric {name!r} is {value}; no metric is beyond {MAX_METRIC:g}")


def _verify_contents(
    update: _Contents,
    model: Mapping[str, TensorInfo] | None,
    kind: UpdateKind,
    taken: tuple[UpdateKind, ...],
    *,
    finite: bool,
) -> Mapping[str, TensorInfo]:
    header = update.header
    if not taken and header.tensors:
        raise UpdateRefused(f"tensor {min(header.tensors)!r} came, but the task takes no tensors")
    encoded = read_encoded(header)
    infos = decoded_infos(header, encoded)
    if kind is UpdateKind.OPAQUE and encoded:
        raise UpdateRefused(f"tensor {min(encoded)!r} of an opaque update is encoded")
    if taken and kind is not UpdateKind.OPAQUE:
        _verify_names(model or {}, infos, kind)
        _verify_bounded(model, encoded)
        if not finite:
            _verify_finite(update)
        for name, tensor in sorted(encoded.items()):
            _verify_encoded(update, name, tensor)
    return infos


class _Contents:
    """The numbers of a tensor file, or of its bytes, piece by piece; several threads may ask at once."""

    def __init__(self, header: TensorHeader, source: bytes | int) -> None:
        self.header = header
        self._source = source  # bytes, or the number of an open file

    def pieces(self, name: str, info: TensorInfo, where: slice | None = None) -> Iterator[NDArray[Any]]:
        """Those of one tensor, or of these bytes of it; one after the other in the same memory."""
        where = where or slice(0, info.end - info.start)
        dtype, first = numpy_dtype(info.dtype), self.header.data_start + info.start
        buffer = memoryview(bytearray(min(_PIECE, where.stop - where.start)))
        for start in range(where.start, where.stop, _PIECE):
            piece = buffer[: min(_PIECE, where.stop - start)]
            self._fill(name, piece, first + start)
            yield np.frombuffer(piece, dtype)

    def _fill(self, name: str, piece: memoryview, offset: int) -> None:
        if isinstance(self._source, bytes):
            piece[:] = self._source[offset : offset + len(piece)]
            return
        while piece:
            taken = os.preadv(self._source, [piece], offset)
            if not taken:
                raise UpdateRefused(f"tensor {name!r} ends before its last byte")
            piece, offset = piece[taken:], offset + taken


def _verify_names(model: Mapping[str, TensorInfo], found: Mapping[str, TensorInfo], kind: UpdateKind) -> None:
    if not found:
        raise UpdateRefused("the update has no tensors")
    if not model:
        if kind is UpdateKind.DIFF:
            raise UpdateRefused("the update is a difference, but its task carried no model")
        return
    for name in sorted(set(model) - set(found)):
        raise UpdateRefused(f"tensor {name!r} is missing")
    for name in sorted(set(found) - set(model)):
        raise UpdateRefused(f"tensor {name!r} is not in the model")
    for name, info in sorted(found.items()):
        if (info.dtype, info.shape) != (model[name].dtype, model[name].shape):
            raise UpdateRefused(f"tensor {name!r} is {info}, the model's is {model[name]}")


def _verify_bounded(model: Mapping[str, TensorInfo] | None, encoded: Mapping[str, EncodedTensor]) -> None:
    """The other encodings make a tensor eight times larger at most."""
    sparse = [name for name, tensor in sorted(encoded.items()) if tensor.encoding.sparse]
    if sparse and not model:
        raise UpdateRefused(f"tensor {sparse[0]!r} is sparse, but its task carried no model that bounds it")


def _verify_finite(update: _Contents) -> None:
    tensors = update.header.tensors
    runs = {names[0]: names for names in neighbours(tensors)}

    def verify(first: str, where: slice) -> None:
        names = runs[first]
        whole = replace(tensors[first], end=tensors[names[-1]].end)
        if not _all_finite_in(update, first, whole, where):
            bad = (name for name in names if not _all_finite_in(update, name, tensors[name]))
            raise UpdateRefused(f"tensor {next(bad)!r} holds NaN or infinity")

    each_span({first: tensors[names[-1]].end - tensors[first].start for first, names in runs.items()}, verify)


def _all_finite_in(update: _Contents, name: str, info: TensorInfo, where: slice | None = None) -> bool:
    return all(map(FINITE[info.dtype], update.pieces(name, info, where)))


def _verify_encoded(update: _Contents, name: str, tensor: EncodedTensor) -> None:
    """What being finite does not say: scales that scale, places that are in the tensor, once each."""
    if tensor.scales is not None:
        most = LARGEST[tensor.info.dtype] / 126  # 127 of them may round up to beyond the largest number
        for piece in update.pieces(name + SCALES, tensor.scales):
            if not ((piece > 0) & (piece.astype(np.float64) <= most)).all():
                raise UpdateRefused(f"tensor {name!r} has a scale that is not above 0 and at most {most:.3g}")
        for piece in update.pieces(name + DATA, tensor.data):
            if (piece == -128).any():
                raise UpdateRefused(f"tensor {name!r} holds -128, which no 8-bit number of a tensor is")
    if tensor.indices is not None:
        last = -1
        for piece in update.pieces(name + INDICES, tensor.indices):
            places = piece.astype(np.int64)
            if places[0] <= last or (np.diff(places) <= 0).any():
                raise UpdateRefused(f"tensor {name!r} has places that do not increase")
            last = int(places[-1])
            if last >= tensor.size:
                raise UpdateRefused(f"tensor {name!r} has a number at place {last} of {tensor.size}")
