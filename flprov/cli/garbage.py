# SPDX-License-Identifier: Apache-2.0
"""How often Python looks for cycles in memory: hardly ever in a command, which is over before it matters.

`flprov status` makes 60,000 objects, nearly all of them modules and classes, which stay. Looking through them
takes 13 of its 230 ms while it runs, and 40 ms more at its end. What runs on looks as often as ever.
"""

from __future__ import annotations

import gc

_RARELY = 100_000  # objects more than at the last look
_USUAL = gc.get_threshold()


def collect_rarely() -> None:
    """For a command: what it imports is not looked through."""
    gc.set_threshold(_RARELY, *_USUAL[1:])


def collect_as_usual() -> None:
    """For what runs on, and for code of others: all that was imported so far stays, the rest is looked at."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


def leave_uncollected() -> None:
    """For the end of a process: the kernel takes everything back."""
    gc.freeze()
