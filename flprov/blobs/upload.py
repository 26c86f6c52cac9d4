# SPDX-License-Identifier: Apache-2.0
"""A blob that arrives in pieces, over as many connections as it takes.

A piece is written and hashed where it is received: both take less than a turn in another thread. The disk
is the slow part, and nobody waits for it but at the end: while one step of eight MiB is synced, the next
comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from flprov._base import sync_folder
from flprov.blobs.digests import CHUNK, Hasher, Watch, new_hasher
from flprov.blobs.disk import NO_SPACE, OpenFile, disk_errors
from flprov.blobs.shelf import SYNC_EVERY, Shelf
from flprov.errors import Conflict, LocalError, ProtocolError
from flprov.wire import pb

_GROWING = os.O_RDWR | os.O_CREAT


class Upload:
    """One connection's part in bringing one blob; made by `BlobStore.upload`.

    Send the blob from byte `offset` on: `write` every piece, then `finish`. When the connection
    breaks, `close`: what has arrived stays for the next upload by the same owner. One caller at a
    time.

    Attributes:
        offset: how many of the blob's `size` bytes are here; `size` when it is here already.
    """

    def __init__(
        self,
        shelf: Shelf,
        partial: Path,
        digest: str,
        size: int,
        *,
        durable: bool = True,
        watch: Watch | None = None,
    ) -> None:
        self.digest = digest
        self.size = size
        self._shelf = shelf
        self._partial = partial
        self._durable = durable
        self._failed = f"blob {digest[:12]} cannot be written"
        self._watch = watch
        self._hash: Hasher | None = None  # once what was there before has gone through it
        self._syncing: asyncio.Future[None] | None = None  # the last whole step, on its way to the disk
        self._taken_over = False
        self._turn = threading.Lock()  # a thread writes, or somebody takes over
        self._publishing: asyncio.Task[None] | None = None
        self._file: OpenFile | None = None
        self._over = False  # whether it is written over another file
        self._base: OpenFile | None = None
        self._same: deque[pb.SameBytes] = deque()  # what is still to come out of it, in order
        self._present = shelf.blob(digest).is_file()
        self.offset = size if self._present else self._resume()

    def _resume(self) -> int:
        """Open the partial file and go on where it ends.

        After a boot the shelf has cut off what may not have come to the disk. (Should the kept part be
        wrong as well, the digest tells in the end.)
        """
        with disk_errors(self._failed):
            with contextlib.suppress(FileNotFoundError):
                self._partial.chmod(0o600)  # a crash while it got its name leaves it read-only
            self._shelf.spares.take(self._partial, self.size)
            self._file = file = OpenFile(self._partial, _GROWING)
            offset = file.filled
            if offset > self.size:
                offset = 0
                file.cut(offset)
            self._over = file.noted is not None
        return offset

    async def draw_on(self, base: Path, same: Iterable[pb.SameBytes]) -> None:
        """Take these ranges out of another file here, each when its turn comes; they are not to be sent.

        What they hold is not looked at: the digest of the whole says whether it was right.

        Args:
            base: the other file.
            same: in order, and apart from each other.

        Raises:
            As `write`.
        """
        if self._present:
            return
        with disk_errors(f"blob {self.digest[:12]} cannot be read"):
            self._base = OpenFile(base, os.O_RDONLY)
        self._same = deque(one for one in same if one.offset + one.size > self.offset)
        await self._draw()

    async def write(self, data: bytes) -> None:
        """Add the next piece. Waits for the disk only when that is two steps of 8 MiB behind.

        Raises:
            ProtocolError: more came than was announced; nothing is kept.
            Conflict: a newer connection of the same owner goes on with this blob.
            LocalError: the disk is full (what has arrived stays) or broken.
        """
        if self._present and not data:
            return
        if self.offset + len(data) > (self._same[0].offset if self._same else self.size):
            self._drop()
            raise ProtocolError(f"blob {self.digest[:12]} is longer than the announced {self.size} bytes")
        self._lay_down(await self._ready(), data, self.offset)
        await self._go_on(len(data))
        await self._draw()

    def _lay_down(self, file: OpenFile, data: bytes, offset: int) -> None:
        try:
            with disk_errors(self._failed):
                self._write(file, data, offset)
                end = offset + len(data)
                if self._over and (end == self.size or end // CHUNK != offset // CHUNK):
                    file.note_filled(end)
        except LocalError:
            self.close()
            raise
        assert self._hash is not None
        self._hash.update(data)

    def _write(self, file: OpenFile, data: bytes, offset: int) -> None:
        try:
            file.write(data, offset)
        except OSError as error:
            if error.errno not in NO_SPACE or not self._shelf.spares.clear():
                raise
            file.write(data, offset)

    async def _go_on(self, size: int) -> None:
        """So many more bytes are here."""
        file = self._verify_open()
        before, self.offset = self.offset, self.offset + size
        if self._durable and before // SYNC_EVERY != self.offset // SYNC_EVERY:
            await self._synced()
            self._syncing = asyncio.get_running_loop().run_in_executor(None, self._sync, file)
            self._syncing.add_done_callback(_pass_over)

    async def _draw(self) -> None:
        """Copy what is due out of the base, step by step."""
        while self._same and self._same[0].offset <= self.offset:
            part, file = self._same[0], await self._ready()
            end = part.offset + part.size
            size = min(SYNC_EVERY, end - self.offset)
            await asyncio.to_thread(self._copy, file, part.base_offset + self.offset - part.offset, size)
            await self._go_on(size)
            if self.offset == end:
                self._same.popleft()

    def _copy(self, file: OpenFile, start: int, size: int) -> None:
        assert self._base is not None
        offset = self.offset
        for data in self._base.read_chunks(start, CHUNK, start + size):
            with self._turn:
                self._verify_open()
                self._lay_down(file, data, offset)
            offset, size = offset + len(data), size - len(data)
        if size:
            with self._turn:
                self._drop()
            raise ProtocolError(f"the base of blob {self.digest[:12]} has fewer bytes than its name says")

    async def finish(self) -> None:
        """Verify the digest; the blob has its name when this returns, and is durable if it is to be.

        Raises:
            ProtocolError: bytes are missing (what has arrived stays), or they are not the blob that
                was announced (nothing is kept).
            Conflict: a newer connection of the same owner goes on with this blob.
            LocalError: the disk failed.
        """
        if self._present:
            if self._durable:
                await asyncio.to_thread(self._settle)
            return
        if self._publishing is None:
            await self._verify_whole()
        await asyncio.shield(self._begin_publishing())

    async def _verify_whole(self) -> None:
        await self._ready()
        await self._synced()
        if self.offset < self.size:
            self.close()
            raise ProtocolError(f"blob {self.digest[:12]} ended after {self.offset} of {self.size} bytes")
        if self._hash is None or self._hash.hexdigest() != self.digest:
            self._drop()
            raise ProtocolError(f"what was sent as blob {self.digest[:12]} has another digest")

    @property
    def publishing(self) -> bool:
        """Whether it is getting its name at this moment: `finish` waits for that, nobody can take over."""
        return self._publishing is not None and not self._publishing.done()

    def _begin_publishing(self) -> asyncio.Task[None]:
        """Goes on even when its caller is cancelled; the thread keeps this upload alive meanwhile."""
        if self._publishing is None:
            self._publishing = asyncio.create_task(asyncio.to_thread(self._publish, self._verify_open()))
        return self._publishing

    async def _synced(self) -> None:
        """The last step is on the disk. Raises LocalError when it is not."""
        if self._syncing is not None:
            await asyncio.shield(self._syncing)
            self._syncing = None

    def close(self) -> None:
        """End this connection's part; what has arrived stays. Does no harm after `finish`."""
        self._file = None

    def give_way(self) -> None:
        """Another connection goes on from here; this one does not write any more, in no thread either."""
        with self._turn:
            self._taken_over = True

    async def _ready(self) -> OpenFile:
        file = self._verify_open()
        if self._hash is None:
            hasher = new_hasher(self._watch)
            if self.offset:
                await asyncio.to_thread(_hash_beginning, hasher, file, self.offset, self.digest)
            self._hash = hasher
        return self._verify_open()

    def _verify_open(self) -> OpenFile:
        if self._taken_over:
            self.close()
            raise Conflict(f"another connection goes on with blob {self.digest[:12]}")
        if self._file is None:
            raise LocalError(f"the upload of blob {self.digest[:12]} is over")
        return self._file

    def _sync(self, file: OpenFile) -> None:
        try:
            with disk_errors(self._failed):
                file.sync()
                sync_folder(self._partial.parent)
        except LocalError:
            self._drop()  # after a failed sync nobody knows what is on the disk
            raise

    def _settle(self) -> None:
        with disk_errors(self._failed):
            self._shelf.settle(self.digest)

    def _publish(self, file: OpenFile) -> None:
        try:
            with disk_errors(self._failed):
                if self._over:
                    file.cut(self.size)
                file.seal() if self._durable else file.close_for_now()
                self._shelf.publish(self._partial, self.digest, durable=self._durable)
            self._present = True
        except LocalError:
            self._drop()
            raise
        self.close()

    def _drop(self) -> None:
        if not (self._present or self._taken_over):
            self._shelf.forget(self._partial)
        self.close()


def _pass_over(done: asyncio.Future[None]) -> None:
    """How a sync has ended is of no interest any more when nobody waits for it."""
    if not done.cancelled():
        done.exception()


def _hash_beginning(hasher: Hasher, file: OpenFile, size: int, digest: str) -> None:
    with disk_errors(f"blob {digest[:12]} cannot be read"):
        file.pass_through(hasher, size)
