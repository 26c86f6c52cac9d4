# SPDX-License-Identifier: Apache-2.0
"""How much sites that send at the same time may have on the way to the server: it has room for all of them.

What has come on a call and was not read yet lies in gRPC's buffers: up to 4 MiB, and as much again in pieces
that are being taken apart. Of two sites that is nothing; 32 with pieces of 1 MiB filled 220 MB. So each reply
to a sender names its share, and it sends smaller pieces, and fewer of them ahead. One that does not listen
has what flow control leaves it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

_TOGETHER = 32 << 20  # bytes
_LEAST = 64 << 10  # bytes; with an answer after 50 ms still 1.3 MB/s, and a thousand of these 64 MB


class Shares:
    """Counts who sends. A site counts once, however many calls it opens: it cannot take from the others."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextlib.contextmanager
    def sending(self, site: str) -> Iterator[None]:
        """While inside, this site sends."""
        self._open[site] += 1
        try:
            yield
        finally:
            self._open[site] -= 1
            if not self._open[site]:
                del self._open[site]

    @property
    def each(self) -> int:
        """Bytes that one upload may have on the way now."""
        return max(_LEAST, _TOGETHER // max(1, len(self._open)))
