# SPDX-License-Identifier: Apache-2.0
"""A kit as one encrypted file, and back. The only door to `pyzipper`.

The file is a zip encrypted with AES-256 in WinZip's form AE-2 (https://www.winzip.com/en/support/aes-encryption/),
which 7-Zip, WinZip, Keka and libarchive open. Names and sizes of the files can be read without the
passphrase; their contents cannot. The form derives its key with only 1,000 rounds of PBKDF2-SHA1, so the
strength must lie in the passphrase: the generated ones have 125 bits, and short ones are refused.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyzipper

from flprov._base import name_file, sync_folder, sync_tree, write_tree
from flprov.errors import Conflict, FlprovError, KitRefused, LocalError, Misuse, NotFound
from flprov.kits.kit import Kit, look_at_kit
from flprov.kits.manifest import Files
from flprov.kits.parcel import open_parcel
from flprov.kits.strength import SHORTEST_PASSPHRASE

_ALPHABET = "23456789abcdefghijkmnpqrstuvwxyz"  # 32; none that is mistaken for another on the telephone
_PLAIN = "[A-Za-z0-9][A-Za-z0-9._-]*"
_ENTRY = re.compile(f"([a-z0-9](?:[a-z0-9._-]{{0,61}}[a-z0-9])?)/({_PLAIN}(?:/{_PLAIN})?)")
_MOST_FILES = 64
_LARGEST_FILE = 64 << 20
_LARGEST_ZIP = 128 << 20
_FIRST_MOMENT = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can say; the manifest says when a kit was made
_DEFLATED, _STORED = pyzipper.ZIP_DEFLATED, pyzipper.ZIP_STORED
_WRONG_ZIP = (
    pyzipper.BadZipFile,
    pyzipper.LargeZipFile,
    RuntimeError,  # also for a wrong passphrase
    EOFError,
    IndexError,
    KeyError,
    OSError,  # the bytes are in memory: only a senseless offset
    OverflowError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A packed kit."""

    path: Path
    kit: Kit
    size: int  # of the file, bytes
    files: int


def make_passphrase() -> str:
    """A new one of 125 bits, in groups that can be read aloud: `k7mq2-9xvbn-...`."""
    letters = [secrets.choice(_ALPHABET) for _ in range(25)]
    return "-".join("".join(letters[start : start + 5]) for start in range(0, 25, 5))


def pack_kit(folder: Path, target: Path, *, passphrase: bytes, now: datetime) -> Pack:
    """Verify a kit and write it to `target`, encrypted.

    Raises:
        KitRefused: the kit is not as it was made.
        Conflict: there is a file at `target`; nothing is overwritten.
        Misuse: a passphrase that is too short, or that other programs would read differently.
        LocalError: the file cannot be written.
    """
    _verify_passphrase(passphrase)
    parcel = open_parcel(folder, now=now)
    if os.path.lexists(target):
        raise _taken(target)
    with _new_file(target) as partial:
        _write_zip(partial, parcel.kit.name, parcel.files, passphrase)
    return Pack(path=target, kit=parcel.kit, size=target.stat().st_size, files=len(parcel.files))


def _verify_passphrase(passphrase: bytes) -> None:
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise Misuse(
            f"the passphrase has {len(passphrase)} characters; fewer than {SHORTEST_PASSPHRASE} are too few",
            hint="give a longer one, or none: then one is made and shown once",
        )
    if not all(0x20 <= byte <= 0x7E for byte in passphrase):
        raise Misuse("the passphrase has characters outside ASCII, which zip programs read in different ways")


def _taken(target: Path) -> Conflict:
    return Conflict(f"{target} is already there", hint="give another name, or remove it first")


@contextlib.contextmanager
def _new_file(target: Path) -> Iterator[Path]:
    """A private file beside `target`, which gets that name at the end unless somebody took it."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        name_file(partial, target)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        raise LocalError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(target.parent)


def _write_zip(path: Path, name: str, files: Files, passphrase: bytes) -> None:
    form = {"nbits": 256, "force_wz_aes_version": 2}
    with pyzipper.AESZipFile(path, "w", encryption=pyzipper.WZ_AES, encryption_kwargs=form) as archive:
        archive.setpassword(passphrase)
        for inside, (data, mode) in sorted(files.items()):
            entry = archive.zipinfo_cls(f"{name}/{inside}", _FIRST_MOMENT)
            entry.create_system = 3  # Unix: the attributes are a mode
            entry.external_attr = (stat.S_IFREG | mode) << 16
            archive.writestr(entry, data, compress_type=_DEFLATED)


# ---- and back ----------------------------------------------------------------------------------


def unpack_kit(path: Path, folder: Path, *, passphrase: bytes, now: datetime) -> Kit:
    """Open a packed kit, verify it, and put it into `folder` under its own name.

    Raises:
        NotFound: there is no such file.
        KitRefused: the file is no packed kit, the passphrase is wrong, or the kit was changed.
        Conflict: there is a kit of that name in `folder`.
    """
    name, files = _read_zip(path, passphrase)
    target = folder / name
    if os.path.lexists(target):
        raise _taken(target)
    partial = folder / f".{name}.{secrets.token_hex(4)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tree(partial, files)
        _verify_unpacked(partial, name, now)
        sync_tree(partial)
        partial.rename(target)
        sync_folder(folder)
    except OSError as error:
        raise LocalError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return look_at_kit(target, now=now)


def _verify_unpacked(partial: Path, name: str, now: datetime) -> None:
    try:
        kit = look_at_kit(partial, now=now)
    except FlprovError as error:
        message = str(error).replace(str(partial.resolve()), name)
        raise KitRefused(f"what was packed is not a good kit: {message}", hint=error.hint) from error
    if kit.name != name:
        raise KitRefused(f"the file holds a folder {name}, and in it the kit of {kit.name}")


def _read_zip(path: Path, passphrase: bytes) -> tuple[str, Files]:
    try:
        with pyzipper.AESZipFile(_read_whole(path)) as archive:
            archive.setpassword(passphrase)
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            name = _verify_entries(path, entries)
            return name, {
                entry.filename.partition("/")[2]: (_read_entry(archive, entry), _mode_of(entry))
                for entry in entries
            }
    except _WRONG_ZIP as error:
        if "password" in str(error).lower():
            raise KitRefused(f"the passphrase does not open {path}") from error
        raise KitRefused(f"{path} is damaged, or not a zip file: {error}") from error


def _read_whole(path: Path) -> io.BytesIO:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_ZIP + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except OSError as error:
        raise LocalError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST_ZIP:
        raise KitRefused(f"{path} is no packed kit: it is larger than {_LARGEST_ZIP >> 20} MiB")
    return io.BytesIO(data)


def _verify_entries(path: Path, entries: list[pyzipper.ZipInfo]) -> str:
    """The name of the one folder in it."""
    names = [entry.filename for entry in entries]
    matches = [_ENTRY.fullmatch(name) for name in names]
    tops = {match[1] for match in matches if match}
    strange = [name for name, match in zip(names, matches, strict=True) if match is None]
    if strange or len(tops) != 1 or len(names) > _MOST_FILES or len({n.lower() for n in names}) != len(names):
        what = f"a file that no kit has: {strange[0]!r}" if strange else "not exactly one kit"
        raise KitRefused(f"{path} is no packed kit: it holds {what}")
    if sum(entry.file_size for entry in entries) > _LARGEST_ZIP:
        raise KitRefused(f"{path} is no packed kit: it would be larger than {_LARGEST_ZIP >> 20} MiB")
    for entry in entries:
        if entry.wz_aes_version is None or entry.wz_aes_strength != 3:
            raise KitRefused(f"{path} is no packed kit: {entry.filename} is not encrypted with AES-256")
        if entry.file_size > _LARGEST_FILE or entry.compress_type not in (_STORED, _DEFLATED):
            raise KitRefused(f"{path} is no packed kit: {entry.filename} is too large or of a strange form")
    return tops.pop()


def _read_entry(archive: pyzipper.AESZipFile, entry: pyzipper.ZipInfo) -> bytes:
    """One file, and no more of it than the directory says, whatever it would expand to."""
    with archive.open(entry) as opened:
        data: bytes = opened.read(entry.file_size)
        if len(data) != entry.file_size or opened.read(1):
            raise pyzipper.BadZipFile(f"{entry.filename} has another size than the directory says")
    return data


def _mode_of(entry: pyzipper.ZipInfo) -> int:
    inside = entry.filename.partition("/")[2]
    if inside.endswith("key.pem"):  # its own, and those of the CAs in a server's kit
        return 0o600
    return 0o755 if inside.endswith(".sh") else 0o644
