# SPDX-License-Identifier: Apache-2.0
"""Apps as bundles: a folder becomes one deterministic archive whose digest is its name, and back.

`build_bundle` runs where the app is written, `unpack_bundle` where it will run; neither trusts
the other side. Both hold to the same names (`filenames`), form and limits (`archive`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from flprov._base import dataclass, sync_folder, sync_tree
from flprov.blobs import digest_of
from flprov.config import shown
from flprov.errors import ConfigError, Conflict, LocalError, Misuse, NotFound, ProtocolError
from flprov.jobs.archive import BundleLimits, Entry, encode_archive, read_entry, scan_archive
from flprov.jobs.filenames import is_skipped, verify_paths
from flprov.jobs.job import JobSpec
from flprov.jobs.reading import JOB_FILE, load_job, read_job

_LIMITS = BundleLimits()
_JOB_FILE_BYTES = 1 << 20
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows, where `build_bundle` runs too
_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe put in a file's place must not hang us


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An app, packed."""

    data: bytes
    digest: str  # BLAKE3-256 of `data`, hex: the app's name on the wire and in records
    files: tuple[str, ...]
    spec: JobSpec

    def __repr__(self) -> str:
        return (
            f"Bundle({self.spec.name}, {self.digest[:12]}, {len(self.files)} files, {len(self.data)} bytes)"
        )


def build_bundle(folder: Path, *, limits: BundleLimits = _LIMITS) -> Bundle:
    """Pack an app's folder. The same files give the same bytes, whatever their times and modes.

    Hidden files and folders (`.git`, `.venv`, `.DS_Store`) and compiled Python are left out.

    Raises:
        NotFound: no such folder, or no job.yml in it.
        ConfigError: job.yml has mistakes, or names a file that the bundle does not hold.
        Misuse: a link, a device, an unsafe name, or more than the limits; it names the file.
        LocalError: a file cannot be read.
    """
    load_job(folder)  # first: it says best what an app is
    try:
        files = dict(_read_folder(folder, limits))
    except OSError as error:
        raise LocalError(f"{error.filename or folder} cannot be read: {error.strerror}") from error
    names = verify_paths(files)
    spec = read_job(folder / JOB_FILE, frozenset(names), text=files.get(JOB_FILE, b""))
    data = encode_archive(files)
    return Bundle(data=data, digest=digest_of(data), files=names, spec=spec)


def _read_folder(folder: Path, limits: BundleLimits) -> Iterator[tuple[str, bytes]]:
    total = 0
    for count, (name, path) in enumerate(_walk(folder), start=1):
        if count > limits.files:
            raise Misuse(f"{folder} has more than {limits.files} files", hint="is this the app's own folder?")
        data = _read_file(path, name, limits.file_bytes)
        total += len(data)
        if total > limits.total_bytes:
            hint = "name data sets under `data` in job.yml instead of packing them"
            raise Misuse(
                f"the files in {folder} are larger than {limits.total_bytes} bytes together", hint=hint
            )
        yield name, data


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file that a bundle holds, by its name in the bundle; links and devices are refused."""
    unseen = [("", folder)]
    while unseen:
        prefix, here = unseen.pop()
        with os.scandir(here) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name = prefix + entry.name
            if is_skipped(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                verify_paths([f"{name}/x"])  # before the walk goes deeper than a path may be
                unseen.append((f"{name}/", Path(entry.path)))
            elif entry.is_symlink():
                raise Misuse(f"{shown(name)} is a link", hint="put the file itself into the app")
            else:
                yield name, Path(entry.path)


def _read_file(path: Path, name: str, limit: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW | _BINARY | _NO_WAIT)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Misuse(f"{shown(name)} is not an ordinary file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise Misuse(f"{shown(name)} is larger than {limit} bytes")
    return data


def list_bundle(path: Path, *, limits: BundleLimits = _LIMITS) -> tuple[str, ...]:
    """The names of the files in a bundle, sorted; every header and name has been checked.

    Raises:
        ProtocolError: it is not a bundle as `build_bundle` makes them.
    """
    with _open_bundle(path) as file:
        return _verified_names(scan_archive(file, limits))


def list_models(path: Path, *, limits: BundleLimits = _LIMITS) -> dict[str, int]:
    """The .safetensors files in a bundle, and their sizes in bytes.

    Raises:
        ProtocolError: it is not a bundle as `build_bundle` makes them.
    """
    with _open_bundle(path) as file:
        entries = scan_archive(file, limits)
    return {entry.name: entry.size for entry in entries if entry.name.endswith(".safetensors")}


def read_bundle_spec(path: Path, *, limits: BundleLimits = _LIMITS) -> JobSpec:
    """The job that a bundle describes, without unpacking it.

    Raises:
        ProtocolError: it is not a bundle as `build_bundle` makes them.
        ConfigError: its job.yml has mistakes.
    """
    with _open_bundle(path) as file:
        return _read_spec(file, scan_archive(file, limits))


def _read_spec(file: BinaryIO, entries: tuple[Entry, ...]) -> JobSpec:
    names = _verified_names(entries)
    entry = next(entry for entry in entries if entry.name == JOB_FILE)
    if entry.size > _JOB_FILE_BYTES:
        raise ConfigError(f"{JOB_FILE}: the file is larger than {_JOB_FILE_BYTES:,} bytes")
    return read_job(Path(JOB_FILE), frozenset(names), text=b"".join(read_entry(file, entry)))


def unpack_bundle(path: Path, target: Path, *, limits: BundleLimits = _LIMITS) -> JobSpec:
    """Unpack a bundle into the new folder `target`, files mode 0444, and read its job.yml.

    `target` appears whole, after everything was checked and synced, or not at all.

    Raises:
        ProtocolError: it is not a bundle as `build_bundle` makes them; it names file and field.
        ConfigError: its job.yml has mistakes.
        Conflict: `target` is there already.
        LocalError: this machine cannot write it.
    """
    if target.exists():
        raise Conflict(f"{target} is there already")
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with _open_bundle(path) as file:
            entries = scan_archive(file, limits)
            spec = _read_spec(file, entries)
            _write_files(file, entries, staging)
        sync_tree(staging)
        staging.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise LocalError(f"the app cannot be unpacked to {target}: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return spec


def _write_files(file: BinaryIO, entries: tuple[Entry, ...], folder: Path) -> None:
    """Write entries whose names have been verified together."""
    folder.mkdir(mode=0o755)
    for entry in entries:
        path = folder / entry.name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW, 0o444)
        with open(descriptor, "wb") as out:
            os.fchmod(descriptor, 0o444)
            out.writelines(read_entry(file, entry))


def _verified_names(entries: tuple[Entry, ...]) -> tuple[str, ...]:
    try:
        names = verify_paths(entry.name for entry in entries)
    except Misuse as error:
        raise ProtocolError(f"the bundle cannot be used: {error}") from error
    if JOB_FILE not in names:
        raise ProtocolError("the bundle has no job.yml")
    return names


@contextlib.contextmanager
def _open_bundle(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)
    except FileNotFoundError:
        raise NotFound(f"there is no bundle {path}") from None
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ProtocolError(f"{path} is not an ordinary file")
        yield file
