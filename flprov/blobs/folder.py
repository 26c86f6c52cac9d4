# SPDX-License-Identifier: Apache-2.0
"""The blob store: whole files under their digests, however they came."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from weakref import WeakValueDictionary

from blake3 import blake3

from flprov._base import sync_folder
from flprov.blobs.digests import CHUNK, digest_of, is_digest, verify_digest
from flprov.blobs.disk import OpenFile, disk_errors
from flprov.blobs.shelf import Shelf, changed_at
from flprov.blobs.upload import Upload
from flprov.errors import Conflict, NotFound, ProtocolError

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM})
_NOT_A_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG})


class BlobStore:
    """Immutable files in one folder, which nobody else uses meanwhile: one of these per folder.

    Every digest is checked before it becomes a path: ProtocolError when it is not one. A file is
    never changed once it has its name, and removing one leaves those who map it in peace.
    """

    def __init__(self, folder: Path) -> None:
        with disk_errors(f"the blobs in {folder} cannot be used"):
            self._shelf = Shelf(folder)
        self._uploads: WeakValueDictionary[str, Upload] = WeakValueDictionary()
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
        return [_size(path) for path in self._stale(before)]

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
                if self._is_durable(digest):
                    return digest
                file = OpenFile(temporary, _NEW)
                file.write(data)
                file.seal()
                self._shelf.publish(temporary, digest)
        finally:
            temporary.unlink(missing_ok=True)
        return digest

    def _is_durable(self, digest: str) -> bool:
        """Whether the blob is here; its name may be so young that it has yet to be brought to disk."""
        if not self.has(digest):
            return False
        self._shelf.touch(digest)
        sync_folder(self._shelf.blob(digest).parent)
        return True

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
        temporary = self._shelf.temporary()
        try:
            with disk_errors(f"{path.name!r} cannot be copied into the blobs"):
                source = _open_foreign(path, limit)
                copy = OpenFile(temporary, _NEW)
                digest, size = _copy(source, copy, path, limit)
                if not self._is_durable(digest):
                    copy.seal()
                    self._shelf.publish(temporary, digest)
        finally:
            temporary.unlink(missing_ok=True)
        return digest, size

    def upload(self, digest: str, size: int, *, owner: str = "") -> Upload:
        """Begin to receive a blob, or go on where its last upload stopped.

        Args:
            digest: its name; what arrives must have it.
            size: its bytes. No space is taken before they arrive.
            owner: who sends. Uploads of one blob by different owners do not touch each other; of
                two by one owner the newer goes on, because the older one's connection is dead.

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
        upload = self._uploads[partial.name] = Upload(self._shelf, partial, digest, size)
        return upload

    def prune(self, before: datetime) -> int:
        """Remove what has arrived of uploads that nobody has gone on with since `before`.

        Returns:
            How many there were.
        """
        stale = self._stale(before)
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
        with disk_errors(f"blob {digest[:12]} cannot be removed"):
            self._shelf.blob(digest).unlink(missing_ok=True)

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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _missing(digest: str) -> NotFound:
    return NotFound(f"no blob {digest[:12]} here")


def _open_foreign(path: Path, limit: int) -> OpenFile:
    """A file in somebody else's folder, if it is one: no link, no pipe, no other file's second name."""
    try:
        file = OpenFile(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except ValueError as error:  # a zero byte
        raise ProtocolError(f"{path.name!r} is not the name of a file") from error
    except OSError as error:
        if error.errno not in _NOT_A_FILE:
            raise
        raise ProtocolError(f"{path.name!r} is not a readable regular file") from error
    found = os.fstat(file.number)
    if not stat.S_ISREG(found.st_mode):
        raise ProtocolError(f"{path.name!r} is not a regular file")
    if found.st_nlink != 1:
        raise ProtocolError(f"{path.name!r} is a hard link to a file that has other names")
    if found.st_size > limit:
        raise _too_large(path, limit)
    return file


def _too_large(path: Path, limit: int) -> ProtocolError:
    return ProtocolError(f"{path.name!r} is larger than the limit of {limit} bytes")


def _copy(source: OpenFile, copy: OpenFile, path: Path, limit: int) -> tuple[str, int]:
    """Digest and size of what was written."""
    hasher, size = blake3(), 0
    for data in source.read_chunks(0, CHUNK):
        size += len(data)
        if size > limit:  # it has grown since we looked
            raise _too_large(path, limit)
        copy.write(data)
        hasher.update(data)
    return hasher.hexdigest(), size


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        _copy_to(source, target)


def _copy_to(source: Path, target: Path) -> None:
    copy = OpenFile(target, _NEW)
    try:
        for data in OpenFile(source, os.O_RDONLY).read_chunks(0, CHUNK):
            copy.write(data)
        os.fchmod(copy.number, 0o444)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
