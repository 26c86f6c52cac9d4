# SPDX-License-Identifier: Apache-2.0
"""What two models have in common, found out once however many sites ask."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from flprov.blobs import BlobStore, disk_errors
from flprov.errors import NotFound
from flprov.wire import pb, unchanged

_KEPT = 16  # pairs of blobs; a job asks about one at a time


class Comparisons:
    """Of pairs of blobs, the newest."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._found: OrderedDict[tuple[str, str], asyncio.Task[pb.CompareReply]] = OrderedDict()

    async def compare(self, base: str, digest: str) -> pb.CompareReply:
        """Which bytes of the blob `digest` stand in `base`; none when that is not here any more."""
        pair = (base, digest)
        if pair not in self._found:
            self._found[pair] = asyncio.create_task(asyncio.to_thread(self._compare, base, digest))
            while len(self._found) > _KEPT:
                self._found.popitem(last=False)
        task = self._found[pair]
        try:
            return await asyncio.shield(task)
        finally:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self._found.pop(pair, None)

    def _compare(self, base: str, digest: str) -> pb.CompareReply:
        try:
            with disk_errors(f"blobs {base[:12]} and {digest[:12]} cannot be compared"):
                return pb.CompareReply(same=unchanged(self._blobs.path(base), self._blobs.path(digest)))
        except NotFound:
            return pb.CompareReply()
