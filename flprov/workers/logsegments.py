# SPDX-License-Identifier: Apache-2.0
"""A log as segments: files that together hold its newest bytes, each byte at an offset that never changes.

The log `base` begins in the file `base` itself; each later segment is `base.` and the offset of its first
byte, in twelve digits. Only the newest is written. When all together would outgrow the limit, the oldest
is removed, so a log has a beginning as well as an end; and there may be a hole where a writer has skipped.
The shim imports this module: nothing slow in here.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike

    AnyPath = str | PathLike[str]

_SEGMENTS = 8  # of which the limit is made: so much of it is lost at once, at most
_MOST_SEGMENTS = 64  # files: a peer whose log is full of holes makes small ones
_DIGITS = 12


class LogSegments:
    """The writing end of one log; there may be one only.

    Attributes:
        dropped: bytes that are in the log no more, or never found space.
    """

    def __init__(self, base: AnyPath, *, limit: int) -> None:
        self.dropped = 0
        self._base = os.fspath(base)
        self._limit = limit
        self._piece = max(1, limit // _SEGMENTS)
        found = log_segments(self._base)
        self._start = found[-1][0] if found else 0
        self._descriptor = self._open()

    @property
    def size(self) -> int:
        """The offset after the last byte."""
        return self._start + os.fstat(self._descriptor).st_size  # asked: the shim's stderr goes there too

    def append(self, data: bytes) -> int:
        """Write at the end. How many bytes found space: a full disk loses output, and nothing else."""
        view = memoryview(data)
        while view:
            room = self._piece - os.fstat(self._descriptor).st_size
            try:
                if room <= 0:
                    self._begin(self.size)
                    continue
                written = os.write(self._descriptor, view[:room])
            except OSError:
                break
            view = view[written:]
        self.dropped += len(view)
        return len(data) - len(view)

    def skip_to(self, offset: int) -> None:
        """The next byte is at `offset`: what lies before it is not to be had. Raises OSError."""
        if offset > self.size:
            self._begin(offset)

    def close(self) -> None:
        """Let go of the newest segment."""
        os.close(self._descriptor)

    def _begin(self, start: int) -> None:
        """A new segment; the oldest ones make room for it."""
        before, self._start = self._start, start
        try:
            new = self._open()
        except OSError:
            self._start = before
            raise
        os.close(self._descriptor)
        self._descriptor = new
        self._make_room()

    def _make_room(self) -> None:
        held = [(path, _size(path)) for _, path in log_segments(self._base)]
        total = sum(size for _, size in held)
        for number, (path, size) in enumerate(held[:-1]):
            if total + self._piece <= self._limit and len(held) - number <= _MOST_SEGMENTS:
                return
            os.unlink(path)  # noqa: PTH108 - pathlib is slow to import
            total -= size
            self.dropped += size

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(_name(self._base, self._start), flags, 0o600)


def log_segments(base: AnyPath) -> list[tuple[int, str]]:
    """Offset of the first byte and path of every segment, oldest first."""
    folder, name = os.path.split(os.fspath(base))
    try:
        names = os.listdir(folder or ".")  # noqa: PTH208
    except OSError:
        return []
    found = [(0, name)] if name in names else []
    for entry in names:
        digits = entry.removeprefix(name + ".")
        if digits != entry and len(digits) >= _DIGITS and digits.isdecimal():
            found.append((int(digits), entry))
    return [(start, os.path.join(folder, entry)) for start, entry in sorted(found)]  # noqa: PTH118


def log_start(base: AnyPath) -> int:
    """The offset of the oldest byte that there is."""
    return next((start for start, _ in log_segments(base)), 0)


def log_size(base: AnyPath) -> int:
    """The offset after the newest byte; 0 when there is no log."""
    found = log_segments(base)
    return found[-1][0] + _size(found[-1][1]) if found else 0


def read_log(base: AnyPath, offset: int, limit: int) -> tuple[int, bytes]:
    """At most `limit` bytes from `offset` on, and where they begin: later, if there is a gap.

    Nothing, and the end's offset, when there is no more. Call it again for what follows. Segments without a
    gap between them are read as one: a line may begin in one and end in the next.

    Raises:
        OSError: a segment cannot be read.
    """
    segments = log_segments(base)
    at, found = offset, b""
    for number, (start, path) in enumerate(segments):
        if number + 1 < len(segments) and offset >= segments[number + 1][0]:
            continue
        if found and start != at + len(found):
            break
        if not found:
            at = max(offset, start)
        try:
            found += _read(path, at + len(found) - start, limit - len(found))
        except FileNotFoundError:  # it was the oldest, and has gone just now
            continue
        if len(found) >= limit:
            break
    return (at, found) if found else (log_size(base), b"")


def remove_log(base: AnyPath) -> None:
    """Remove every segment. Raises OSError."""
    for _, path in log_segments(base):
        os.unlink(path)  # noqa: PTH108


def _name(base: str, start: int) -> str:
    return f"{base}.{start:0{_DIGITS}d}" if start else base


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def _read(path: str, offset: int, limit: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, limit, offset)
    finally:
        os.close(descriptor)
