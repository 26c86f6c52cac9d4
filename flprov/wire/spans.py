# SPDX-License-Identifier: Apache-2.0
"""Large tensors in spans, one thread per processor: numpy lets go of the interpreter while it calculates.

What is done with a span may not depend on any other, so the result has the same bits however many
threads there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

PIECE = 1 << 17  # numbers calculated with in one go: a core's cache holds most of the buffers for it
_SPAN = 1 << 21  # numbers that one thread does in a row: of one large tensor, or of many small ones
_WORTH_IT = 1 << 20  # numbers, in all, for each thread; below, threads cost more than they gain
_MOST_THREADS = 8  # more wait for memory


def each_span(sizes: Mapping[str, int], do: Callable[[str, slice], None], *, deep: int = 1) -> None:
    """Call `do(name, where)` for every span of every tensor: name -> how many numbers, or bytes.

    What raises comes out; of several, what comes first in the order of the tensors.

    Args:
        sizes: of the tensors.
        do: sees to a span.
        deep: how many numbers are read for each: that many updates.
    """
    batches = list(_batches(sizes, max(PIECE, _SPAN // deep)))
    work = sum(sizes.values()) * deep
    threads = min(_MOST_THREADS, len(batches), -(-work // _WORTH_IT))

    def do_all(batch: Sequence[tuple[str, slice]]) -> None:
        for name, where in batch:
            do(name, where)

    if threads < 2 or (threads := min(threads, os.cpu_count() or 1)) < 2:
        for batch in batches:
            do_all(batch)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(do_all, batches):
            pass


def pieces(where: slice) -> Iterator[slice]:
    """A span in pieces."""
    for start in range(where.start, where.stop, PIECE):
        yield slice(start, min(start + PIECE, where.stop))


def _batches(sizes: Mapping[str, int], span: int) -> Iterator[list[tuple[str, slice]]]:
    batch: list[tuple[str, slice]] = []
    left = span
    for name, size in sizes.items():
        for start in range(0, size, span):
            where = slice(start, min(start + span, size))
            batch.append((name, where))
            left -= where.stop - where.start
            if left <= 0:
                yield batch
                batch, left = [], span
    if batch:
        yield batch
