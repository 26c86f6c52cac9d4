# SPDX-License-Identifier: Apache-2.0
"""The file that a backup is: a tar whose first member says what it is, and whose last one its digests.

Anybody can look into it with `tar tf`; only what the last member names, with its digest, is ever taken out.
A file that was cut off has no last member.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar, cast

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import NotFound, StateDamaged

FORMAT = 1
HEADER = "flprov-backup.json"
MANIFEST = "manifest.json"
STATE = "state/"

_CHUNK = 1 << 20
_MOST_WORDS = 64 << 20  # of the header or the manifest

_T = TypeVar("_T")

Step = Callable[[int], None]  # told how many bytes more are done


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a backup is of."""

    format: int
    flprov: str  # the version that wrote it
    schema: int  # of the store in it
    project: str
    project_id: str
    server: str
    made_at: datetime
    log_index: int
    log_digest: str
    bytes: int  # of everything in it


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file in a backup."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Every file with its digest."""

    files: Mapping[str, Part]


class ArchiveWriter:
    """Writes one backup, member after member."""

    def __init__(self, file: IO[bytes], header: Header, *, step: Step) -> None:
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT)
        self._header = header
        self._files: dict[str, Part] = {}
        self._step = step
        self._add_bytes(HEADER, canonical_json(header))

    def add(self, name: str, path: Path, size: int | None = None) -> None:
        """A file; of one that may be growing, the first `size` bytes. Raises FileNotFoundError."""
        with path.open("rb") as source:
            size = os.fstat(source.fileno()).st_size if size is None else size
            hasher = _Hashing(source, size, self._step)
            self._tar.addfile(self._info(STATE + name, size), hasher)  # type: ignore[arg-type]
            self._files[name] = Part(size=size, sha256=hasher.hexdigest())

    def finish(self) -> None:
        """The manifest, which makes it whole."""
        self._add_bytes(MANIFEST, canonical_json(Manifest(files=self._files)))
        self._tar.close()

    def _add_bytes(self, name: str, data: bytes) -> None:
        self._tar.addfile(self._info(name, len(data)), io.BytesIO(data))

    def _info(self, name: str, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        info.mtime = int(self._header.made_at.timestamp())
        return info


class _Hashing:
    """A file while tarfile copies it; what a log has lost at its end meanwhile is filled up with zeros."""

    def __init__(self, source: IO[bytes], size: int, step: Step) -> None:
        self._source = source
        self._left = size
        self._hash = hashlib.sha256()
        self._step = step

    def read(self, size: int) -> bytes:
        data = self._source.read(min(size, self._left))
        if not data and self._left:
            data = b"\0" * min(size, self._left)
        self._left -= len(data)
        self._hash.update(data)
        self._step(len(data))
        return data

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class ArchiveReader:
    """Reads one backup; nothing in it is trusted before its digest was found right."""

    def __init__(self, path: Path, *, shown: str = "") -> None:
        self._shown = shown or str(path)
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}") from None
        except IsADirectoryError:
            raise NotFound(f"{path} is a folder; a backup is a file") from None

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return os.fstat(self._file.fileno()).st_size

    def header(self) -> Header:
        """What it is of. Raises StateDamaged: it is no backup."""
        with self._errors():
            for info, source in self._members():
                if info.name != HEADER:
                    break
                return self._read(Header, info, source)
        raise self._damage("it is not a backup that `flprov server backup` has made")

    def extract(self, folder: Path | None, *, step: Step) -> Manifest:
        """Write every file below `folder` (None: only look), and compare each with its digest.

        Raises:
            StateDamaged: something is missing, doubled, changed or has no business here.
            OSError: it could not be written.
        """
        found: dict[str, Part] = {}
        manifest: Manifest | None = None
        room = self.size  # what is packed takes no less than what comes out of it
        with self._errors():
            for info, source in self._members():
                room -= info.size
                if room < 0:
                    raise self._damage("more would come out of it than is in it")
                if manifest is not None:
                    raise self._damage("something follows its manifest")
                if info.name == MANIFEST:
                    manifest = self._read(Manifest, info, source)
                elif info.name != HEADER:
                    name = self._verify_name(info, found)
                    found[name] = _copy(source, info.size, folder / name if folder else None, step)
        if manifest is None:
            raise self._damage("its end is missing")
        if different := sorted(_different(found, manifest.files)):
            more = f" and {len(different) - 3} more" if len(different) > 3 else ""
            names = ", ".join(map(ascii, different[:3]))
            raise self._damage(f"{names}{more}: not what was written")
        return manifest

    def _members(self) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
        self._file.seek(0)
        careful = cast("IO[bytes]", _Careful(self._file, self.size))
        with tarfile.open(fileobj=careful, mode="r:") as tar:
            for info in tar:
                plain = info.isreg() and not info.issparse()
                source = tar.extractfile(info) if plain else None
                if source is None:
                    raise self._damage(f"{info.name!a} in it is no plain file")
                yield info, source

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Inside, what tarfile raises comes out in our words."""
        try:
            yield
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise self._damage(str(error) or "it ends too early") from error

    def _read(self, kind: type[_T], info: tarfile.TarInfo, source: IO[bytes]) -> _T:
        if info.size > _MOST_WORDS:
            raise self._damage(f"{info.name} in it is too large")
        try:
            return from_document(kind, parse_json(source.read()))
        except ValueError as error:
            raise self._damage(f"{info.name} in it cannot be read: {error}") from error

    def _verify_name(self, info: tarfile.TarInfo, found: Mapping[str, Part]) -> str:
        name = info.name.removeprefix(STATE)
        path = PurePosixPath(name)
        bad = path.is_absolute() or ".." in path.parts or str(path) != name or "\\" in name or "\0" in name
        if bad or not info.name.startswith(STATE) or name in ("", "."):
            raise self._damage(f"{info.name!a} in it is not the name of a file of a state")
        if name in found:
            raise self._damage(f"{name!a} is in it twice")
        return name

    def _damage(self, what: str) -> StateDamaged:
        return StateDamaged(f"the backup {self._shown} cannot be used: {what}", hint="take another one")


class _Careful:
    """A file for tarfile, which believes what a header says of its own length."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._size = size

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_WORDS:
            raise tarfile.ReadError("a header in it is too large")
        return self._file.read(size)

    def seek(self, place: int) -> int:
        if not 0 <= place <= self._size + tarfile.RECORDSIZE:
            raise tarfile.ReadError("it ends too early")
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


def _different(found: Mapping[str, Part], wanted: Mapping[str, Part]) -> Iterator[str]:
    return (name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def _copy(source: IO[bytes], size: int, target: Path | None, step: Step) -> Part:
    hasher = hashlib.sha256()
    done = 0
    sink = _create(target) if target else None
    try:
        while data := source.read(_CHUNK):
            hasher.update(data)
            done += len(data)
            if sink is not None:
                sink.write(data)
            step(len(data))
    finally:
        if sink is not None:
            sink.close()
    return Part(size=done if done == size else -1, sha256=hasher.hexdigest())


def _create(target: Path) -> IO[bytes]:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(target, flags, 0o600), "wb")
