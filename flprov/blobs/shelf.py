# SPDX-License-Identifier: Apache-2.0
"""The folder of a blob store: `ab/<digest>` for blobs, `partial/` for what is not whole yet."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from flprov._base import sync_folder
from flprov.blobs.digests import digest_of, verify_digest

_PROCESS = secrets.token_hex(8)  # marks temporary files of this process; a pid may come again


class Shelf:
    """Where everything lies. One process at a time; what an earlier one left half-written goes."""

    def __init__(self, folder: Path) -> None:
        self.grown_here: set[str] = set()  # partials of this process: their size is to be trusted
        self._folder = folder
        self._partials = folder / "partial"
        self._making = threading.Lock()
        for place in (folder, self._partials):
            if not place.is_dir():
                place.mkdir(mode=0o700, parents=True)
                sync_folder(place.parent)
            place.chmod(0o700)
        for leftover in self._partials.glob("*.tmp"):
            if not leftover.name.startswith(_PROCESS):
                leftover.unlink(missing_ok=True)

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

    def publish(self, source: Path, digest: str) -> None:
        """Give the synced file `source` the blob's name, durably. Raises OSError."""
        target = self.blob(digest)
        self._make(target.parent)
        if target.exists():
            source.unlink()
        else:
            source.rename(target)
        sync_folder(target.parent)
        self.grown_here.discard(source.name)

    def forget(self, partial: Path) -> None:
        """Remove what is not whole."""
        partial.unlink(missing_ok=True)
        self.grown_here.discard(partial.name)

    def blobs(self) -> Iterator[Path]:
        """Every file that lies where a blob does."""
        found = self._folder.glob("[0-9a-f][0-9a-f]/*")
        return (path for path in found if path.name.startswith(path.parent.name))

    def partials(self, before: datetime) -> list[Path]:
        """The uploads that have not grown since `before`."""
        return [path for path in self._partials.glob("*.part") if changed_at(path) < before.timestamp()]

    def _make(self, place: Path) -> None:
        with self._making:  # who comes second must not go on before the name is on disk
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
