# SPDX-License-Identifier: Apache-2.0
"""The names of blobs: BLAKE3-256, 64 lower-case hex digits, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from flprov.errors import ProtocolError

CHUNK = 1 << 20  # large enough that a hash or a copy is bound by the disk, not by calls

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Watch(Protocol):
    """Looks at the bytes of a blob while they are hashed, once and in order."""

    def update(self, data: bytes | memoryview, /) -> object:
        """The next bytes."""
        ...

    def named(self, digest: str, /) -> None:
        """These were all, and this is the name of just these bytes."""
        ...


class Hasher(Protocol):
    """Calculates a name as bytes come by."""

    def update(self, data: bytes | memoryview, /) -> object:
        """The next bytes."""
        ...

    def hexdigest(self) -> str:
        """The name of those that have come."""
        ...


def new_hasher(watch: Watch | None = None) -> Hasher:
    """A hash for one blob; `watch` sees what goes through it."""
    return blake3() if watch is None else _Watched(watch)


class _Watched:
    def __init__(self, watch: Watch) -> None:
        self._hash = blake3()
        self._watch = watch

    def update(self, data: bytes | memoryview, /) -> None:
        self._hash.update(data)
        self._watch.update(data)

    def hexdigest(self) -> str:
        digest: str = self._hash.hexdigest()
        self._watch.named(digest)
        return digest


def digest_of(data: bytes | memoryview) -> str:
    """The name of `data`."""
    return blake3(data).hexdigest()


def digest_file(path: Path) -> str:
    """The name of what is in the file, read in chunks.

    Raises:
        OSError: it cannot be read.
    """
    hasher = blake3()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()


def is_digest(text: str) -> bool:
    """Whether this could be the name of a blob."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def verify_digest(digest: str) -> str:
    """The digest itself, once it is sure to be one: it becomes part of a path.

    Raises:
        ProtocolError: it is anything else.
    """
    if not is_digest(digest):
        raise ProtocolError(f"{ascii(digest)[:80]} is not the name of a blob (64 lower-case hex digits)")
    return digest
