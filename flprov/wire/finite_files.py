# SPDX-License-Identifier: Apache-2.0
"""The tensor files whose numbers are known to be finite.

An update is looked at while it goes through its hash, as it arrives: then its bytes are in the processor's
cache, and it need not be read once more before it counts. What was found is known by the digest of those very
bytes. Only that all is well is remembered: of any other file `verify_update` finds out what is wrong.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flprov.wire.finiteness import FiniteCheck

_KEPT = 4096


class FiniteFiles:
    """The newest of them, by their digests."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, None] = OrderedDict()

    def watch(self, size: int) -> FiniteCheck:
        """What looks at the bytes of a file that is said to have so many."""
        from flprov.wire.finiteness import FiniteCheck  # late: with numpy, and not needed to be ready

        return FiniteCheck(size, self._add)

    def __contains__(self, digest: str) -> bool:
        return digest in self._found

    def _add(self, digest: str) -> None:
        self._found[digest] = None
        while len(self._found) > _KEPT:
            self._found.popitem(last=False)
