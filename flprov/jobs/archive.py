# SPDX-License-Identifier: Apache-2.0
"""The one form of zip that a bundle has: encode it, and read it back trusting nothing.

Any unzip reads our bundles; we read nobody else's zips. The form leaves no choice: names sorted
and in UTF-8, contents stored (not compressed), no extra fields, no comments, no zip64, time
1980-01-01, mode 0644, local files back to back, then the central directory, then the end. So the
same files give the same bytes, and `scan` need not decide between two accounts of a file that
disagree (the source of most zip attacks: overlaps, doubled names, lying sizes, links hidden in
attributes): it computes what each header must be and refuses any other byte. As nothing is
compressed nothing can grow. Layout: PKWARE APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from flprov._base import dataclass
from flprov.config import shown
from flprov.errors import ProtocolError
from flprov.jobs.filenames import PATH_BYTES

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCAL_MARK, _CENTRAL_MARK, _END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

_VERSION = 20  # zip 2.0
_UTF8 = 0x800
_STORED = 0
_TIME, _DATE = 0, (1 << 5) | 1  # 1980-01-01 00:00, the first moment that zip can say
_MADE_BY = (3 << 8) | _VERSION  # Unix: the attributes below are a mode
_MODE = 0o100644 << 16
_CHUNK = 1 << 20

_LOCAL_FIELDS = (
    "signature",
    "version",
    "flags",
    "compression",
    "time",
    "date",
    "checksum",
    "compressed size",
    "size",
    "name length",
    "extra field length",
)
_CENTRAL_FIELDS = (
    "signature",
    "made-by",
    *_LOCAL_FIELDS[1:],
    "comment length",
    "disk number",
    "internal attributes",
    "file mode",
    "offset",
)
_END_FIELDS = (
    "signature",
    "disk number",
    "directory's disk number",
    "entries on this disk",
    "number of entries",
    "directory size",
    "directory offset",
    "comment length",
)


@dataclass(frozen=True, kw_only=True)
class BundleLimits:
    """How large an app may be."""

    files: int = 10_000
    file_bytes: int = 512 << 20
    total_bytes: int = 512 << 20


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of an archive, and where its bytes are."""

    name: str
    size: int
    checksum: int  # CRC-32
    header: int  # offset of the local header
    start: int  # offset of the first byte


def encode_archive(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files; the same files give the same bytes on every machine."""
    pieces: list[bytes] = []
    entries: list[Entry] = []
    offset = 0
    for name in sorted(files):
        data = files[name]
        start = offset + _LOCAL.size + len(name.encode())
        entry = Entry(name=name, size=len(data), checksum=zlib.crc32(data), header=offset, start=start)
        pieces += [_local(entry), data]
        entries.append(entry)
        offset = start + len(data)
    directory = b"".join(map(_central, entries))
    return b"".join([*pieces, directory, _end(len(entries), len(directory), offset)])


def _shared(entry: Entry, length: int) -> tuple[int, ...]:
    return (_VERSION, _UTF8, _STORED, _TIME, _DATE, entry.checksum, entry.size, entry.size, length, 0)


def _local(entry: Entry) -> bytes:
    name = entry.name.encode()
    return _LOCAL.pack(_LOCAL_MARK, *_shared(entry, len(name))) + name


def _central(entry: Entry) -> bytes:
    name = entry.name.encode()
    fields = (*_shared(entry, len(name)), 0, 0, 0, _MODE, entry.header)
    return _CENTRAL.pack(_CENTRAL_MARK, _MADE_BY, *fields) + name


def _end(count: int, size: int, offset: int) -> bytes:
    return _END.pack(_END_MARK, 0, 0, count, count, size, offset, 0)


def scan_archive(file: BinaryIO, limits: BundleLimits) -> tuple[Entry, ...]:
    """The entries of an archive whose every header is as `encode_archive` would have written it.

    Contents are not read yet; `read_entry` checks them. Memory: one Entry per file.

    Raises:
        ProtocolError: anything else, naming the file, field or limit.
    """
    length = file.seek(0, 2)
    file.seek(0)
    entries: list[Entry] = []
    total = 0
    mark = _take(file, 4, "the first file")
    while mark == _LOCAL_MARK:
        entry = _scan_local(file, mark)
        total += entry.size
        _verify_limits(entry, total, len(entries) + 1, limits)
        if entry.start + entry.size > length:
            raise ProtocolError(
                f"{shown(entry.name)} in the bundle ends early: it declares {entry.size} bytes"
            )
        if entries:
            _verify_order(entries[-1].name, entry.name)
        entries.append(entry)
        file.seek(entry.start + entry.size)
        mark = _take(file, 4, "the directory")
    _scan_directory(file, mark, entries)
    return tuple(entries)


def _scan_local(file: BinaryIO, mark: bytes) -> Entry:
    header = file.tell() - 4
    fixed = mark + _take(file, _LOCAL.size - 4, "a file's header")
    fields = dict(zip(_LOCAL_FIELDS, _LOCAL.unpack(fixed), strict=True))
    name = _take_name(file, fields["name length"])
    start = file.tell()
    entry = Entry(name=name, size=fields["size"], checksum=fields["checksum"], header=header, start=start)
    _verify_fields(name, _LOCAL_FIELDS, _LOCAL, fixed + name.encode(), _local(entry))
    return entry


def _verify_limits(entry: Entry, total: int, count: int, limits: BundleLimits) -> None:
    if count > limits.files:
        raise ProtocolError(f"the bundle has more than {limits.files} files")
    if entry.size > limits.file_bytes:
        raise ProtocolError(f"{shown(entry.name)} in the bundle is larger than {limits.file_bytes} bytes")
    if total > limits.total_bytes:
        raise ProtocolError(f"the bundle's files are larger than {limits.total_bytes} bytes together")


def _verify_order(before: str, name: str) -> None:
    if name == before:
        raise ProtocolError(f"{shown(name)} stands twice in the bundle")
    if name < before:
        raise ProtocolError(f"{shown(name)} comes after {shown(before)} in the bundle; names are sorted")


def _take_name(file: BinaryIO, length: int) -> str:
    if not 0 < length <= PATH_BYTES:
        raise ProtocolError(
            f"a file name in the bundle is {length} bytes long; 1 to {PATH_BYTES} are allowed"
        )
    raw = _take(file, length, "a file's name")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"file name {raw!a} in the bundle is not UTF-8") from None


def _scan_directory(file: BinaryIO, mark: bytes, entries: list[Entry]) -> None:
    offset = file.tell() - 4
    for entry in entries:
        expected = _central(entry)
        found = mark + _take(file, len(expected) - 4, "the directory")
        _verify_fields(entry.name, _CENTRAL_FIELDS, _CENTRAL, found, expected)
        mark = _take(file, 4, "the directory's end")
    size = file.tell() - 4 - offset
    found = mark + _take(file, _END.size - 4, "the directory's end")
    _verify_fields("", _END_FIELDS, _END, found, _end(len(entries), size, offset))
    if file.read(1):
        raise ProtocolError("the bundle has bytes after its end")


def _verify_fields(
    name: str, labels: tuple[str, ...], shape: struct.Struct, found: bytes, expected: bytes
) -> None:
    """Refuse a header that differs from the one that we would have written, naming the field."""
    where = f"{shown(name)} in the bundle" if name else "the bundle's directory"
    pairs = zip(labels, shape.unpack_from(found), shape.unpack_from(expected), strict=True)
    for label, have, want in pairs:
        if have != want:
            raise ProtocolError(f"{where}: {label} is {_show(label, have)}, not {_show(label, want)}")
    if found[shape.size :] != expected[shape.size :]:
        raise ProtocolError(f"{where} has another name in the directory: {found[shape.size :]!a}")


def _show(label: str, value: bytes | int) -> str:
    if label == "file mode" and isinstance(value, int):
        return f"{value >> 16:#o}" + (f" (attributes {value & 0xFFFF:#x})" if value & 0xFFFF else "")
    return ascii(value)


def _take(file: BinaryIO, count: int, what: str) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ProtocolError(f"the bundle ends early: {what} is missing")
    return data


def read_entry(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """The bytes of one file in chunks of at most 1 MiB.

    Raises:
        ProtocolError: after the last chunk, when they do not match the checksum.
    """
    file.seek(entry.start)
    left, checksum = entry.size, 0
    while left:
        data = _take(file, min(left, _CHUNK), shown(entry.name))
        checksum = zlib.crc32(data, checksum)
        left -= len(data)
        yield data
    if checksum != entry.checksum:
        raise ProtocolError(f"{shown(entry.name)} in the bundle does not match its checksum")
