# SPDX-License-Identifier: Apache-2.0
"""What is delivered: a kit that was verified, as the very bytes that were verified.

Packing and sending work from a parcel and never open the kit's files again, so nobody can change one
between check and delivery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov.errors import KitRefused
from flprov.kits.kit import Kit, look_at_kit
from flprov.kits.manifest import KEY, MANIFEST, SIGNATURE, SIGNER, digest_of, read_contents
from flprov.kits.reading import Unreadable, read_stored
from flprov.pki import verify_signature

_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """A verified kit and all of its files."""

    kit: Kit
    files: Mapping[str, tuple[bytes, int]] = field(
        repr=False
    )  # relative name -> bytes, mode; the manifest first

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(len(data) for data, _ in self.files.values())


def open_parcel(folder: Path, *, now: datetime) -> Parcel:
    """Verify the kit in `folder` and read it.

    Raises:
        NotFound: there is no such folder.
        KitRefused: it is not the kit that was made.
    """
    kit = look_at_kit(folder, now=now)
    contents = read_contents(kit.folder, now=now, trusted=kit.manifest_digest)
    manifest, signature = (_read(kit.folder, name) for name in (MANIFEST, SIGNATURE))
    if {contents.digest, digest_of(manifest)} != {kit.manifest_digest}:
        raise KitRefused(f"{kit.folder}: {MANIFEST} changed while it was read", hint="try again")
    verify_signature(manifest, signature, contents.files[SIGNER].data)
    files = {MANIFEST: (manifest, 0o644), SIGNATURE: (signature, 0o644)}
    for name, entry in sorted(contents.manifest.files.items()):
        mode = 0o600 if name == KEY else int(entry.mode, 8) & 0o755
        files[name] = (contents.files[name].data, mode)
    return Parcel(kit=kit, files=files)


def digest(data: bytes) -> str:
    """SHA-256 of a file, hex, as the manifest writes it."""
    return hashlib.sha256(data).hexdigest()


def _read(folder: Path, name: str) -> bytes:
    try:
        return read_stored(folder / name, limit=_LARGEST).data
    except Unreadable as error:
        raise KitRefused(f"{folder}: {name} {error}") from error
