# SPDX-License-Identifier: Apache-2.0
"""The blobs of a simulation: files in a folder that goes with it. Nothing is synced, and nothing copied.

The files of updates go in a circle: a process of sites writes one, the workflow reads it, and when it does
not look into it any more, it is lent to a process of sites to be written over: a new one takes five times as
long.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from pathlib import Path

from flprov._base import LEAST_SPARE
from flprov.blobs import BlobStore, Home, give_back
from flprov.server.records import BlobRef

_MARK = "f" * 32  # as no digest begins, save by a chance of one in 2^128
_KEPT = 2  # rounds that a used file is kept: a controller has its updates at hand until it has the next ones


class ScratchBlobs(BlobStore):
    """A blob store whose files need not survive.

    An update is parked: it is known by a name of our own instead of its digest, since nobody else has it, and
    nobody will ask for it by that. It is moved to whoever it is linked for.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._parked: dict[str, Path] = {}
        self._used: deque[tuple[int, Path]] = deque()  # of which round, and where; the next one to lend first
        self._rounds = 0
        self._numbers = itertools.count()
        self._shelf_of_used = folder / "used"
        self._shelf_of_used.mkdir()

    def park(self, path: Path) -> BlobRef:
        """The file of an update, which nobody changes any more."""
        name = f"{_MARK}{next(self._numbers):032x}"
        self._parked[name] = path
        return BlobRef(digest=name, size=path.stat().st_size)

    def link(self, digest: str, target: Path) -> None:
        """See BlobStore.link."""
        parked = self._parked.pop(digest, None)
        if parked is None:
            super().link(digest, target)
        else:
            parked.rename(target)

    def remove(self, digest: str) -> None:
        """See BlobStore.remove; what was parked is where it was moved."""
        if not digest.startswith(_MARK):
            super().remove(digest)

    def unlink(self, target: Path) -> None:
        """See BlobStore.unlink; what nobody else has is kept to be lent."""
        with contextlib.suppress(FileNotFoundError):
            found = target.stat()
            if found.st_nlink > 1 or found.st_size < LEAST_SPARE:
                target.unlink()
                return
            kept = self._shelf_of_used / str(next(self._numbers))
            self._used.append((self._rounds, target.rename(kept)))

    def lend(self, folder: Path) -> None:
        """Let a used file lie in `folder` as a spare one, if there is one that nobody looks into any more."""
        if self._used:
            age, path = self._used.popleft()
            if not give_back(path, Home.of(folder)):
                self._used.append((age, path))

    def end_round(self) -> None:
        """Remove what nobody wanted, and what was used long ago."""
        for path in self._parked.values():
            path.unlink(missing_ok=True)
        self._parked.clear()
        self._rounds += 1
        for age, path in self._used:
            if age + _KEPT < self._rounds:
                path.unlink(missing_ok=True)
        self._used = deque(one for one in self._used if one[0] + _KEPT >= self._rounds)

    async def adopt(self, path: Path, *, limit: int) -> tuple[str, int]:
        """See BlobStore.adopt; the job is our user's own, on our user's machine."""
        return await self.take(path, limit=limit)

    async def settle(self, digest: str) -> None:
        """Nothing: see the module."""
