# SPDX-License-Identifier: Apache-2.0
"""The names of blobs: BLAKE3-256, 64 lower-case hex digits, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from blake3 import blake3

from flprov.errors import ProtocolError

CHUNK = 1 << 20  # large enough that a hash or a copy is bound by the disk, not by calls

_DIGEST = re.compile(r"[0-9a-f]{64}")


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
