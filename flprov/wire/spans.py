# SPDX-License-Identifier: Apache-2.0
"""Large tensors in spans, one thread per processor: numpy lets go of the interpreter while it calculates.

What is done with a span may not depend on any other, so the result has the same bits however many
threads there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

PIECE = (
    1 << 16
)  # numbers calculated with in one go: a few float64 buffers of it fit into the cache of one core
_SPAN = 1 << 21  # numbers that one thread does in a row
_WORTH_IT = 1 << 19  # numbers in all; below, threads cost more than they gain
_MOST_THREADS = 8  # more wait for memory


def each_span(sizes: Mapping[str, int], do: Callable[[str, slice], None]) -> None:
    """Call `do(name, where)` for every span of every tensor: name -> how many numbers, or bytes.

    What raises comes out; of several, what comes first in the order of the tensors.
    """
    spans = list(_spans(sizes))
    threads = min(os.cpu_count() or 1, _MOST_THREADS, len(spans))
    if threads < 2 or sum(sizes.values()) < _WORTH_IT:
        for name, where in spans:
            do(name, where)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(do, *zip(*spans, strict=True)):
            pass


def pieces(where: slice) -> Iterator[slice]:
    """A span in pieces."""
    for start in range(where.start, where.stop, PIECE):
        yield slice(start, min(start + PIECE, where.stop))


def _spans(sizes: Mapping[str, int]) -> Iterator[tuple[str, slice]]:
    for name, size in sizes.items():
        for start in range(0, size, _SPAN):
            yield name, slice(start, min(start + _SPAN, size))
