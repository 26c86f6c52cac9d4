# SPDX-License-Identifier: Apache-2.0
"""Whether the numbers of a tensor file are finite: of arrays of each dtype, and as its bytes come by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flprov.errors import ProtocolError
from flprov.wire.dtypes import numpy_dtype
from flprov.wire.tensor_header import PREFIX_SIZE, TensorInfo, header_length, parse_header

Test = Callable[[NDArray[Any]], bool]

_PIECE = 1 << 18  # bytes looked at in one go: they stay in the cache meanwhile
_LONGEST = 512 << 10  # bytes of a header: 8,000 tensors are read in 60 ms, and whoever watches waits for that


class FiniteCheck:
    """Takes the bytes of one file in order, as a blob's `Watch`; `passed` gets its digest if all is well.

    A file with a very long header does not pass: it is for those to look at who need not be quick.
    """

    def __init__(self, size: int, passed: Callable[[str], None]) -> None:
        self._left = size
        self._size = size
        self._passed = passed
        self._head = bytearray()  # until all of the header is here
        self._runs: Iterator[_Run] | None = None
        self._run: _Run | None = None  # where the next byte is, or which comes next
        self._rest = b""  # of a number that came in two parts
        self._bad = False

    def update(self, data: bytes | memoryview) -> None:
        """The next bytes."""
        self._left -= len(data)
        if self._bad:
            return
        try:
            view = memoryview(data) if self._runs is not None else self._read_header(data)
            self._bad |= not all(test(numbers) for test, numbers in self._numbers(view))
        except ProtocolError:  # told by whoever reads the file
            self._bad = True

    def named(self, digest: str) -> None:
        """That was all, and this is its digest."""
        if self._runs is not None and not self._left and not self._bad:
            self._passed(digest)

    def _read_header(self, data: bytes | memoryview) -> memoryview:
        """What of these bytes comes after the header."""
        self._head += data
        if len(self._head) < PREFIX_SIZE:
            return memoryview(b"")
        end = PREFIX_SIZE + header_length(bytes(self._head[:PREFIX_SIZE]), self._size)
        if end > _LONGEST:
            self._bad, self._head = True, bytearray()
            return memoryview(b"")
        if len(self._head) < end:
            return memoryview(b"")
        header = parse_header(bytes(self._head[PREFIX_SIZE:end]), self._size)
        rest, self._head = memoryview(bytes(self._head[end:])), bytearray()
        self._runs = _runs(header.tensors)
        self._run = next(self._runs, None)
        self._at = 0
        return rest

    def _numbers(self, view: memoryview) -> Iterator[tuple[Test, NDArray[Any]]]:
        """The numbers in these bytes, in pieces, each with its test."""
        while view and (run := self._run) is not None:
            if self._at < run.start:
                skipped = min(run.start - self._at, len(view))
                view, self._at = view[skipped:], self._at + skipped
                continue
            part = view[: min(run.end - self._at, _PIECE)]
            view, self._at = view[len(part) :], self._at + len(part)
            yield from ((run.test, numbers) for numbers in self._whole(run.dtype, part))
            if self._at == run.end:
                assert self._runs is not None
                self._run = next(self._runs, None)

    def _whole(self, dtype: np.dtype[Any], part: memoryview) -> Iterator[NDArray[Any]]:
        """The numbers that end in `part`; the beginning of another one waits for its end."""
        if self._rest:
            lacking = dtype.itemsize - len(self._rest)
            self._rest, part = self._rest + bytes(part[:lacking]), part[lacking:]
            if len(self._rest) < dtype.itemsize:
                return
            yield np.frombuffer(self._rest, dtype)
        whole = len(part) - len(part) % dtype.itemsize
        self._rest = bytes(part[whole:])
        if whole:
            yield np.frombuffer(part[:whole], dtype)


class _Run(NamedTuple):
    """Tensors of one dtype that follow on each other in the file."""

    start: int
    end: int
    dtype: np.dtype[Any]
    test: Test


def _runs(tensors: Mapping[str, TensorInfo]) -> Iterator[_Run]:
    for names in neighbours(tensors):
        first, last = tensors[names[0]], tensors[names[-1]]
        if first.start < last.end:
            yield _Run(first.start, last.end, numpy_dtype(first.dtype), FINITE[first.dtype])


def neighbours(tensors: Mapping[str, TensorInfo]) -> Iterator[list[str]]:
    """Names of floating-point tensors that follow on each other in the file and have one dtype.

    They are looked at as one: a model may have thousands of tiny tensors.
    """
    names: list[str] = []
    last: TensorInfo | None = None
    for name, info in _in_order(tensors):
        if last is not None and (last.end, last.dtype) != (info.start, info.dtype):
            yield names
            names = []
        names.append(name)
        last = info
    if names:
        yield names


def _in_order(tensors: Mapping[str, TensorInfo]) -> Iterable[tuple[str, TensorInfo]]:
    tested = ((name, info) for name, info in tensors.items() if info.dtype in FINITE)
    return sorted(tested, key=lambda item: item[1].start)


def _all_finite(values: NDArray[Any]) -> bool:
    return bool(np.isfinite(values).all())


def _exponent_below(word: type[np.unsignedinteger[Any]], mask: int) -> Test:
    """Formats where NaN and infinity are the values whose exponent bits are all ones."""
    return lambda values: not bool(((values.view(word) & word(mask)) == mask).any())


FINITE: Mapping[str, Test] = {
    "F16": _all_finite,
    "F32": _all_finite,
    "F64": _all_finite,
    "C64": _all_finite,
    "BF16": _exponent_below(np.uint16, 0x7F80),
    "F8_E5M2": _exponent_below(np.uint8, 0x7C),
    "F8_E4M3": _exponent_below(np.uint8, 0x7F),  # no infinity; NaN alone has all seven bits
    "F8_E8M0": _exponent_below(np.uint8, 0xFF),
}
