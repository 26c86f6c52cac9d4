# SPDX-License-Identifier: Apache-2.0
"""The blob store: whole files under their digests, however they came."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from weakref import WeakValueDictionary

from flprov.blobs.digests import CHUNK, Watch, digest_of, is_digest, new_hasher, verify_digest
from flprov.blobs.disk import OpenFile, disk_errors
from flprov.blobs.foreign import copy_foreign, open_foreign, remove_foreign, take_apart
from flprov.blobs.shelf import Shelf, changed_at
from flprov.blobs.spares import Home, give_back
from flprov.blobs.upload import Upload
from flprov.errors import Conflict, NotFound, ProtocolError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM})


class BlobStore:
    """Immutable files in one folder, which nobody else uses meanwhile: one of these per folder.

    Every digest is checked before it becomes a path: ProtocolError when it is not one. A file is
    never changed once it has its name, and removing one leaves those who map it in peace.
    """

    def __init__(self, folder: Path) -> None:
        with disk_errors(f"the blobs in {folder} cannot be used"):
            self._shelf = Shelf(folder)
        self._uploads: WeakValueDictionary[str, Upload] = WeakValueDictionary()
        self._homes: dict[str, Home] = {}  # digest -> the folder that it was taken from
        self._holds = 0
        self._kept: set[str] = set()  # what was to be removed since the first hold

    def has(self, digest: str) -> bool:
        """Whether the whole blob is here."""
        return self._shelf.blob(digest).is_file()

    def path(self, digest: str) -> Path:
        """Its file, for reading and mapping. Raises NotFound."""
        path = self._shelf.blob(digest)
        if not path.is_file():
            raise _missing(digest)
        return path

    def size(self, digest: str) -> int:
        """Its bytes. Raises NotFound."""
        return self.path(digest).stat().st_size

    def digests(self, *, before: datetime | None = None) -> set[str]:
        """Every blob that is here; with `before`, those that nobody has brought since then."""
        return {
            path.name
            for path in self._shelf.blobs()
            if is_digest(path.name) and (before is None or changed_at(path) < before.timestamp())
        }

    def stale_uploads(self, before: datetime) -> list[int]:
        """Of each upload that nobody has gone on with since `before`, the bytes that have arrived."""
        return [self._shelf.arrived(path) for path in self._stale(before)]

    def _stale(self, before: datetime) -> list[Path]:
        return [path for path in self._shelf.partials(before) if path.name not in self._uploads]

    async def put(self, data: bytes) -> str:
        """Keep `data`, durably. Raises LocalError.

        Returns:
            Its digest.
        """
        return await asyncio.to_thread(self._put, data)

    def _put(self, data: bytes) -> str:
        digest = digest_of(data)
        temporary = self._shelf.temporary()
        try:
            with disk_errors(f"blob {digest[:12]} cannot be written"):
                if self.has(digest):  # its name may be so young that it has yet to be brought to disk
                    self._shelf.touch(digest)
                    self._shelf.settle(digest)
                    return digest
                file = OpenFile(temporary, _NEW)
                file.write(data, 0)
                self._publish(temporary, file, digest, durable=True)
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    async def adopt(self, path: Path, *, limit: int) -> tuple[str, int]:
        """Copy a file from a folder that somebody else may write to, durably.

        The digest is that of the copy, whatever happens to the file meanwhile.

        Returns:
            Digest and size.

        Raises:
            NotFound: there is no such file.
            ProtocolError: it is a link or no regular file, has other names, or more than `limit` bytes.
            LocalError: our disk is full or broken.
        """
        return await asyncio.to_thread(self._adopt, path, limit)

    def _adopt(self, path: Path, limit: int) -> tuple[str, int]:
        with disk_errors(f"{path.name!r} cannot be copied into the blobs"):
            return self._copy(open_foreign(path, limit), path, limit, durable=True)

    def _copy(self, source: OpenFile, path: Path, limit: int, *, durable: bool) -> tuple[str, int]:
        temporary = self._shelf.temporary()
        try:
            copy = OpenFile(temporary, _NEW)
            digest, size = copy_foreign(source, copy, path, limit)
            self._publish(temporary, copy, digest, durable=durable)
        finally:
            temporary.unlink(missing_ok=True)
        return digest, size

    async def take(
        self, path: Path, *, limit: int, kept: Path | None = None, watch: Watch | None = None
    ) -> tuple[str, int]:
        """Make a blob of a file that a confined process wrote, without a copy where that is safe.

        The file leaves its folder, for one that the process cannot reach, and is a blob as it is if nobody
        has it open for writing then (the kernel is asked) and it has no second name. Else it is copied, as
        `adopt` does. Not for a process that may reach any file of ours: `adopt` is.

        The blob is not synced: see `settle`. Removed, it is left in its folder as a spare file, for the
        process to write over (`flprov._base.open_to_fill`).

        Args:
            path: the file; it is gone when this returns.
            limit: bytes that it may have.
            kept: where it stays until the caller removes it, beside the blob and without more space. Who is
                killed before he has noted the digest asks again and gets the same answer.
            watch: sees the bytes that are hashed. Of a file that is copied it sees nothing.

        Returns:
            Digest and size.

        Raises:
            As `adopt`.
        """
        return await asyncio.to_thread(self._take, path, limit, kept, watch)

    def _take(self, path: Path, limit: int, kept: Path | None, watch: Watch | None) -> tuple[str, int]:
        apart = kept or self._shelf.temporary()
        taken = False
        try:
            with disk_errors(f"{path.name!r} cannot be taken into the blobs"):
                home = Home.of(path.parent)
                try:
                    fresh = take_apart(path, apart)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    return self._copy(open_foreign(path, limit), path, limit, durable=False)
                source = open_foreign(apart, limit, named_twice=not fresh)
                found = self._rename(source, apart, watch, keep=kept is not None) if fresh else None
                taken = True
                if found:
                    self._homes[found[0]] = home
                return found or self._copy(source, path, limit, durable=False)
        finally:
            if kept is None or not taken:
                remove_foreign(apart)

    def _rename(
        self, source: OpenFile, path: Path, watch: Watch | None, *, keep: bool
    ) -> tuple[str, int] | None:
        """Let the file be a blob as it is; None when it has to be copied."""
        if not source.is_still():
            return None
        hasher = new_hasher(watch)
        size, digest = source.pass_through(hasher), hasher.hexdigest()
        try:
            self._publish(path, source, digest, durable=False, keep=keep)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return None
        return digest, size

    def _publish(self, path: Path, file: OpenFile, digest: str, *, durable: bool, keep: bool = False) -> None:
        """Let the whole file at `path` be the blob, unless that is here."""
        if self.has(digest):
            self._shelf.touch(digest)
            if durable:
                self._shelf.settle(digest)
            return
        file.seal() if durable else file.close_for_now()
        self._shelf.publish(path, digest, durable=durable, keep=keep)

    async def settle(self, digest: str) -> None:
        """Bring a blob to disk, if it is not known to be there. Raises NotFound, LocalError."""
        await asyncio.to_thread(self._settle, digest)

    def _settle(self, digest: str) -> None:
        with disk_errors(f"blob {digest[:12]} cannot be brought to disk"):
            try:
                self._shelf.settle(digest)
            except FileNotFoundError:
                raise _missing(digest) from None

    def upload(
        self,
        digest: str,
        size: int,
        *,
        owner: str = "",
        durable: bool = True,
        watch: Watch | None = None,
    ) -> Upload:
        """Begin to receive a blob, or go on where its last upload stopped.

        Args:
            digest: its name; what arrives must have it.
            size: its bytes. No space is taken before they arrive.
            owner: who sends. Uploads of one blob by different owners do not touch each other; of
                two by one owner the newer goes on, because the older one's connection is dead.
            durable: whether it is to be on the disk at the end. What can be fetched again need not: it is
                not trusted any more once the machine has been started again.
            watch: sees its bytes, if they are not here yet.

        Raises:
            ProtocolError: the digest is none, or the blob is here and has another size.
            LocalError: the disk is full or broken.
        """
        if size < 0 or (self.has(digest) and self.size(digest) != size):
            raise _wrong_size(digest, size)
        self._shelf.touch(digest)
        partial = self._shelf.partial(digest, owner)
        older = self._uploads.get(partial.name)
        if older is not None and older.publishing:
            return _verify_size(older, size)  # all of it has come; only `finish` is left to wait for
        if older is not None:
            older.give_way()
        upload = Upload(self._shelf, partial, digest, size, durable=durable, watch=watch)
        self._uploads[partial.name] = upload
        return upload

    def prune(self, before: datetime) -> int:
        """Remove what has arrived of uploads that nobody has gone on with since `before`.

        Returns:
            How many there were.
        """
        stale = self._stale(before)
        with disk_errors("an upload that was given up cannot be removed"):
            for path in stale:
                self._shelf.forget(path)
        return len(stale)

    def drop_uploads(self, owners: Iterable[str]) -> None:
        """Remove what has arrived of these owners' uploads: nobody goes on with them."""
        for path in self._shelf.partials_of(owners):
            upload = self._uploads.get(path.name)
            if upload is not None and upload.publishing:
                continue
            if upload is not None:
                upload.give_way()
            self._shelf.forget(path)

    def drop_spares(self) -> None:
        """Remove what is kept to be written over: the job that it comes from is over."""
        self._shelf.spares.drop()

    def read(self, digest: str, offset: int = 0, chunk: int = CHUNK) -> Iterator[bytes]:
        """Its bytes from `offset` on, in pieces of `chunk`; whole even if it is removed meanwhile.

        Raises:
            NotFound: it is not here.
            ProtocolError: it ends before `offset`.
        """
        try:
            file = OpenFile(self._shelf.blob(digest), os.O_RDONLY)
        except FileNotFoundError:
            raise _missing(digest) from None
        if not 0 <= offset <= file.size:
            raise ProtocolError(f"blob {digest[:12]} has {file.size} bytes, none at {offset}")
        return file.read_chunks(offset, chunk)

    def link(self, digest: str, target: Path) -> None:
        """Let the blob also appear as `target`, read-only: a hard link, or a copy where that cannot be.

        Raises:
            NotFound: it is not here.
            Conflict: `target` exists.
            LocalError: the file system refuses.
        """
        source = self.path(digest)
        with disk_errors(f"blob {digest[:12]} cannot be linked as {target.name}"):
            try:
                _link_or_copy(source, target)
            except FileExistsError:
                raise Conflict(f"{target} exists already") from None

    def remove(self, digest: str) -> None:
        """Let go of the blob, if it is here. The bytes stay for whoever has it open, mapped or linked."""
        if self._holds:
            self._kept.add(digest)
            return
        path, home = self._shelf.blob(digest), self._homes.pop(digest, None)
        with disk_errors(f"blob {digest[:12]} cannot be removed"):
            if home is None or not give_back(path, home):
                self._shelf.spares.keep(path)

    def unlink(self, target: Path) -> None:
        """Remove what `link` made, if it is there. Raises OSError."""
        self._shelf.spares.keep(target)

    def hold(self) -> None:
        """Remove nothing until as many `release` as `hold` have come: somebody copies what is here."""
        self._holds += 1

    def release(self) -> frozenset[str]:
        """The end of a hold; of the last one: what was to be removed meanwhile, for the caller to look at."""
        self._holds -= 1
        if self._holds:
            return frozenset()
        kept, self._kept = self._kept, set()
        return frozenset(kept)


def _wrong_size(digest: str, size: int) -> ProtocolError:
    return ProtocolError(f"blob {verify_digest(digest)[:12]} does not have {size} bytes")


def _verify_size(upload: Upload, size: int) -> Upload:
    if upload.size != size:
        raise _wrong_size(upload.digest, size)
    return upload


def _missing(digest: str) -> NotFound:
    return NotFound(f"no blob {digest[:12]} here")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _copy_to(source, target)


def _copy_to(source: Path, target: Path) -> None:
    copy, size = OpenFile(target, _NEW), 0
    try:
        for data in OpenFile(source, os.O_RDONLY).read_chunks(0, CHUNK):
            copy.write(data, size)
            size += len(data)
        os.fchmod(copy.number, 0o444)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
