# SPDX-License-Identifier: Apache-2.0
"""The blobs of a simulation: files in a folder that goes with it. Nothing is synced, and nothing copied."""

from __future__ import annotations

import secrets
from pathlib import Path

from flprov.blobs import BlobStore
from flprov.server.records import BlobRef

_MARK = "f" * 32  # as no digest begins, save by a chance of one in 2^128


class ScratchBlobs(BlobStore):
    """A blob store whose files need not survive.

    An update is parked: it is known by a name of our own instead of its digest, since nobody else has it, and
    nobody will ask for it by that. It is moved to whoever it is linked for.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._parked: dict[str, Path] = {}

    def park(self, path: Path) -> BlobRef:
        """The file of an update, which nobody changes any more."""
        name = f"{_MARK}{secrets.token_hex(16)}"
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

    def drop_parked(self) -> None:
        """Remove what nobody wanted."""
        for path in self._parked.values():
            path.unlink(missing_ok=True)
        self._parked.clear()

    async def adopt(self, path: Path, *, limit: int) -> tuple[str, int]:
        """See BlobStore.adopt; the job is our user's own, on our user's machine."""
        return await self.take(path, limit=limit)

    async def settle(self, digest: str) -> None:
        """Nothing: see the module."""
