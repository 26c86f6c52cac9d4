# SPDX-License-Identifier: Apache-2.0
"""`flprov server backup`: the whole state in one file, of a server that runs or does not.

The store is copied in one read transaction. The blobs that this copy names are held meanwhile, so that a
server at work removes none of them; were it killed and started again in the middle, all begins anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Protocol

from flprov import __version__
from flprov._base import hold_lock, name_file, sync_folder
from flprov.errors import Conflict, LocalError, NotFound
from flprov.kits import Kit
from flprov.rpc import hold_local
from flprov.server.operations.archive import FORMAT, ArchiveReader, ArchiveWriter, Header
from flprov.server.series import FILE
from flprov.store import STORE_FILE, Snapshot, copied_records, copy_store
from flprov.wire.documents import BackupDocument

Progress = Callable[[int, int], None]  # bytes done, of how many

_TRIES = 3
_WORK = "backup.partial"  # a folder in the state, for the copy of the store
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OF_THE_STORE = re.compile(r"store\.(db(-wal|-shm|-journal)?|reserve)")
_GROWS = re.compile(rf"jobs/[^/]+/(logs/[^/]+|workflow/log[^/]*|{re.escape(FILE)})")
_KEY = b"PRIVATE KEY-----"


class Held(Protocol):
    """That nothing is removed from the state for now."""

    @property
    def alive(self) -> bool:
        """False once it may have been."""
        ...


class _Locked:
    alive = True


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file of the state that goes into the backup."""

    name: str
    path: Path
    size: int


class _Moved(Exception):
    """The server was started anew in the middle."""


def back_up(kit: Kit, state: Path, target: Path, *, now: datetime, progress: Progress) -> BackupDocument:
    """Write the state of a server to the new file `target`, and read it again to be sure.

    Raises:
        Conflict: `target` exists, or another backup is under way.
        NotFound: no server has run on this kit, or there is no such folder.
        LocalError: the disk is full or broken, or the server came and went all the time.
    """
    began = time.monotonic()
    target = target.absolute()
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} exists, and is not overwritten", hint="choose another name")
    if not target.parent.is_dir():
        raise NotFound(f"there is no folder {target.parent}")
    if not (state / STORE_FILE).is_file():
        raise NotFound(f"there is nothing to back up: no server has run on {kit.folder}")
    for _ in range(_TRIES):
        with (
            contextlib.suppress(_Moved),
            _held(kit, state) as (held, running),
            _workplace(state) as work,
        ):
            found = _Backup(kit, state, work, held, now, progress).write(target)
            return _document(found, target, kit, now, running, time.monotonic() - began)
    raise LocalError(
        "the server was started anew again and again meanwhile", hint="let it run, then try again"
    )


@contextlib.contextmanager
def _held(kit: Kit, state: Path) -> Iterator[tuple[Held, bool]]:
    """The state as it is: locked when no server runs, else held by the one that does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_lock(state / "lock"))
        except BlockingIOError:
            what = f"the server {kit.name}"
            yield stack.enter_context(hold_local(state, what=what, hint="try again in a moment")), True
        else:
            yield _Locked(), False


@contextlib.contextmanager
def _workplace(state: Path) -> Iterator[Path]:
    """A folder for the copy of the store; what an earlier backup left there when it was killed goes."""
    work = state / _WORK
    try:
        with hold_lock(state / f"{_WORK}.lock"):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(mode=0o700)
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except BlockingIOError:
        raise Conflict("another backup of this server is under way", hint="wait until it is done") from None


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What went into the file."""

    header: Header
    jobs: int
    blobs: int
    keys: tuple[str, ...]
    missing: tuple[str, ...]


class _Backup:
    """One attempt."""

    def __init__(
        self, kit: Kit, state: Path, work: Path, held: Held, now: datetime, progress: Progress
    ) -> None:
        self._kit = kit
        self._state = state
        self._work = work
        self._held = held
        self._now = now
        self._progress = progress
        self._done = 0
        self._total = 1

    def write(self, target: Path) -> _Written:
        copy = self._work / STORE_FILE
        snapshot = copy_store(self._state, copy)
        jobs, named = _read_names(copy)
        blobs, missing = self._find_blobs(named)
        # First what may be another file in a moment: a certificate, the trust bundle and its keys.
        others = sorted(self._find_files(), key=lambda found: bool(_GROWS.fullmatch(found.name)))
        files = [*others, _Found(name=STORE_FILE, path=copy, size=copy.stat().st_size), *blobs]
        self._total = 2 * sum(found.size for found in files)  # written, and read again
        with _new_file(target) as file:
            header = self._header(snapshot, self._total // 2)
            self._write_files(file, header, files)
            self._verify(file, target)
            if not self._held.alive:
                raise _Moved
        return _Written(
            header=header,
            jobs=jobs,
            blobs=len(blobs),
            keys=tuple(found.name for found in files if _is_key(found)),
            missing=tuple(sorted(missing)),
        )

    def _header(self, snapshot: Snapshot, size: int) -> Header:
        return Header(
            format=FORMAT,
            flprov=__version__,
            schema=snapshot.schema,
            project=self._kit.project,
            project_id=self._kit.project_id,
            server=self._kit.name,
            made_at=self._now,
            log_index=snapshot.head,
            log_digest=snapshot.digest,
            bytes=size,
        )

    def _find_blobs(self, named: set[str]) -> tuple[list[_Found], set[str]]:
        found, missing = [], set()
        for digest in sorted(named):
            name = f"blobs/{digest[:2]}/{digest}"
            path = self._state / name
            try:
                found.append(_Found(name=name, path=path, size=path.stat().st_size))
            except FileNotFoundError:
                missing.add(digest)
        if missing and not self._held.alive:
            raise _Moved
        return found, missing

    def _find_files(self) -> Iterator[_Found]:
        """Everything else that lies in the state: CAs, its own certificates, logs and numbers of jobs."""
        for path in sorted(self._state.rglob("*")):
            name = path.relative_to(self._state).as_posix()
            if _is_left_out(name) or path.is_symlink() or not path.is_file():
                continue
            with contextlib.suppress(FileNotFoundError):  # a log that was rotated away
                yield _Found(name=name, path=path, size=path.stat().st_size)

    def _write_files(self, file: IO[bytes], header: Header, files: list[_Found]) -> None:
        writer = ArchiveWriter(file, header, step=self._step)
        for found in files:
            try:
                writer.add(found.name, found.path, found.size if _GROWS.fullmatch(found.name) else None)
            except FileNotFoundError:
                if not _GROWS.fullmatch(found.name):
                    raise _Moved from None
        writer.finish()
        file.flush()
        os.fsync(file.fileno())

    def _verify(self, file: IO[bytes], target: Path) -> None:
        with ArchiveReader(Path(f"/proc/self/fd/{file.fileno()}"), shown=str(target)) as reader:
            reader.extract(None, step=self._step)

    def _step(self, size: int) -> None:
        self._done += size
        self._progress(min(self._done, self._total), self._total)


def _read_names(copy: Path) -> tuple[int, set[str]]:
    """How many jobs a store has, and the digests of the blobs that its records name."""
    jobs = 0
    named: set[str] = set()
    for kind, _, value in copied_records(copy):
        jobs += kind == "job"
        named.update(_digests(value))
    return jobs, named


def _digests(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON
    """Of everything that looks like the reference to a blob: a digest, and how many bytes it is of."""
    if isinstance(value, dict):
        digest = value.get("digest")
        if "size" in value and isinstance(digest, str) and _DIGEST.fullmatch(digest):
            yield digest
        for item in value.values():
            yield from _digests(item)
    elif isinstance(value, list):
        for item in value:
            yield from _digests(item)


def _is_left_out(name: str) -> bool:
    """What belongs to a process that runs, or is in the backup by another way."""
    if name.startswith(("blobs/", f"{_WORK}/")) or _OF_THE_STORE.fullmatch(name):
        return True
    if name.startswith("jobs/"):
        return not _GROWS.fullmatch(name)
    last = name.rpartition("/")[2]
    return last in ("lock", f"{_WORK}.lock") or last.endswith((".sock", ".partial", ".tmp"))


def _is_key(found: _Found) -> bool:
    if found.size > 64 << 10 or found.name.startswith(("blobs/", "jobs/")):
        return False
    with contextlib.suppress(FileNotFoundError):
        return _KEY in found.path.read_bytes()
    return False


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[IO[bytes]]:
    """A file that has no name until it is whole, and then this one, which must be free."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    named = False
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has files without names
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        named = True
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            if named:
                name_file(partial, target)
            else:
                _give_name(file, target)
            sync_folder(target.parent)
    except FileExistsError:
        raise Conflict(f"{target} exists by now, and is not overwritten") from None
    finally:
        if named:
            partial.unlink(missing_ok=True)


def _give_name(file: IO[bytes], target: Path) -> None:
    """linkat(2) with AT_SYMLINK_FOLLOW, which Python asks for only beside a folder's descriptor."""
    folder = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(str(file.fileno()), target, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _document(
    found: _Written, target: Path, kit: Kit, now: datetime, running: bool, seconds: float
) -> BackupDocument:
    return BackupDocument(
        file=str(target),
        bytes=target.stat().st_size,
        project=kit.project,
        server=kit.name,
        log_index=found.header.log_index,
        made_at=now,
        jobs=found.jobs,
        blobs=found.blobs,
        running=running,
        keys=found.keys,
        missing=found.missing,
        seconds=round(seconds, 3),
    )
