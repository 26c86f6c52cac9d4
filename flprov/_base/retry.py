# SPDX-License-Identifier: Apache-2.0
"""Back-off with jitter, for reconnecting."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff(
    first: float = 0.1, most: float = 30.0, *, source: random.Random | None = None
) -> Iterator[float]:
    """Seconds to wait before each next try: doubling, with full jitter, never above `most`.

    Full jitter (Brooker, "Exponential Backoff And Jitter", 2015) keeps a thousand sites from
    coming back in step after a server restart. A tenth of the ceiling is the least.
    """
    chance = source or random.Random()  # noqa: S311 - spreads load, guards nothing
    ceiling = first
    while True:
        yield chance.uniform(ceiling / 10, ceiling)
        ceiling = min(most, ceiling * 2)
