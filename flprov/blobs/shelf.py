# SPDX-License-Identifier: Apache-2.0
"""The folder of a blob store: `ab/<digest>` for blobs, `partial/` for what is not whole yet.

What was written and not synced is as good as synced until the machine goes down under us. So the folder
notes which boot it was used in last (`boot`); in the next one, what was not synced is not trusted.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from flprov._base import boot_id, sync_folder, write_atomic
from flprov.blobs.digests import digest_of, verify_digest
from flprov.blobs.disk import DURABLE, OpenFile
from flprov.blobs.spares import Spares

SYNC_EVERY = 8 << 20  # so much of an upload is on its way to the disk; a sync of it takes milliseconds

_PROCESS = secrets.token_hex(8)  # marks temporary files of this process; a pid may come again


class Shelf:
    """Where everything lies. One process at a time; what an earlier one left half-written goes.

    Attributes:
        spares: files to write over.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._partials = folder / "partial"
        self._naming = threading.Lock()
        for place in (folder, self._partials):
            if not place.is_dir():
                place.mkdir(mode=0o700, parents=True)
                sync_folder(place.parent)
            place.chmod(0o700)
        for leftover in self._partials.glob("*.tmp"):
            if not leftover.name.startswith(_PROCESS):
                leftover.unlink(missing_ok=True)
        self._settle_boot(folder / "boot")
        self.spares = Spares(self._partials)

    def _settle_boot(self, noted: Path) -> None:
        """After a boot, keep of what lies here only what had been synced before."""
        boot = boot_id()
        if boot and noted.is_file() and noted.read_text(encoding="ascii", errors="replace") == boot:
            return
        for path in self.blobs():
            if path.stat().st_mode & 0o777 != DURABLE:
                path.unlink()
        for path in self._partials.glob("*.part"):
            # The last step may still have been on its way to the disk when the next one began.
            path.chmod(0o600)  # it may have been about to get its name
            file = OpenFile(path, os.O_WRONLY)
            file.cut(max(0, file.filled // SYNC_EVERY - 1) * SYNC_EVERY)
        write_atomic(noted, boot.encode())

    def blob(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self._folder / verify_digest(digest)[:2] / digest

    def touch(self, digest: str) -> None:
        """Somebody brings this blob; if it is here already, it counts as young again."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self.blob(digest))

    def temporary(self) -> Path:
        """A new name for a file that does not survive this process."""
        return self._partials / f"{_PROCESS}.{secrets.token_hex(8)}.tmp"

    def partial(self, digest: str, owner: str) -> Path:
        """Where an upload grows. Owners are apart: nobody can spoil what another one sends."""
        mark = f".{_mark(owner)}" if owner else ""
        return self._partials / f"{verify_digest(digest)}{mark}.part"

    def partials_of(self, owners: Iterable[str]) -> list[Path]:
        """What has arrived of the uploads of these owners."""
        found = list(self._partials.glob("*.*.part"))
        marks = {_mark(owner) for owner in owners} if found else set()
        return [path for path in found if path.name.split(".")[1] in marks]

    def publish(self, source: Path, digest: str, *, durable: bool = True, keep: bool = False) -> None:
        """Give the file `source` the blob's name, or with `keep` that one too. Raises OSError.

        `durable`: the file is synced, and its name is on the disk when this returns.
        """
        target = self.blob(digest)
        with self._naming:  # what is on the disk already is not replaced by what is not
            self._make(target.parent)
            if durable or not target.exists():
                target.hardlink_to(source) if keep else source.rename(target)
            elif not keep:
                source.unlink()
        if durable:
            sync_folder(target.parent)

    def settle(self, digest: str) -> None:
        """Bring a blob that is here to disk, with its name, if it is not there yet. Raises OSError."""
        path = self.blob(digest)
        if path.stat().st_mode & 0o777 != DURABLE:
            file = OpenFile(path, os.O_RDONLY)
            file.sync()  # before the mode that vouches for it
            file.seal()
        sync_folder(path.parent)

    def forget(self, partial: Path) -> None:
        """Remove what is not whole."""
        partial.unlink(missing_ok=True)

    def arrived(self, partial: Path) -> int:
        """How many bytes of an upload are here."""
        try:
            return OpenFile(partial, os.O_RDONLY).filled
        except FileNotFoundError:
            return 0

    def blobs(self) -> Iterator[Path]:
        """Every file that lies where a blob does."""
        found = self._folder.glob("[0-9a-f][0-9a-f]/*")
        return (path for path in found if path.name.startswith(path.parent.name))

    def partials(self, before: datetime) -> list[Path]:
        """The uploads that have not grown since `before`."""
        return [path for path in self._partials.glob("*.part") if changed_at(path) < before.timestamp()]

    def _make(self, place: Path) -> None:
        if not place.is_dir():
            place.mkdir(mode=0o700)
            sync_folder(self._folder)


def _mark(owner: str) -> str:
    return digest_of(owner.encode())[:16]


def changed_at(path: Path) -> float:
    """When the file was last written; a file that is gone was not long ago."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
