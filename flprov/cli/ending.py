# SPDX-License-Identifier: Apache-2.0
"""Commands that are told to end (SIGTERM, a terminal that is closed) and leave as little as after Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def ending_cleanly() -> Iterator[None]:
    """What is undone on Ctrl-C is undone when we are told to end, too. What nohup(1) ignores stays so."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    heard = [
        number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
