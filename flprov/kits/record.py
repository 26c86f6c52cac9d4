# SPDX-License-Identifier: Apache-2.0
"""`project.json` in a workspace: the project's locked state, written last in each run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import from_document, parse_json, to_document, write_atomic
from flprov.errors import StateDamaged
from flprov.kits.reading import Unreadable, read_stored
from flprov.pki import Kind, Reason

FILE = "project.json"
FORMAT = 1
BACKUP = ".bak"
_LARGEST = 256 << 20  # 100,000 kits have 60 MB


@dataclass(frozen=True, kw_only=True)
class IssuedCertificate:
    """A certificate that is out."""

    fingerprint: str
    not_before: datetime
    not_after: datetime
    serial: str = ""  # hex; what a revocation list names
    issuer: str = ""  # hex; key id of the CA that issued it
    issued_at: datetime | None = None

    def is_due(self, now: datetime) -> bool:
        """Whether two thirds of its life are over (the rule of step-ca and Let's Encrypt)."""
        return now >= self.not_before + (self.not_after - self.not_before) * 2 / 3


@dataclass(frozen=True, kw_only=True)
class KitRecord:
    """What one kit was made from, and which certificates its party holds."""

    kind: Kind
    identity: str  # spiffe://...
    names: tuple[str, ...] = ()  # host names in the certificate
    manifest: str  # SHA-256 of the kit's manifest.json
    certificates: tuple[IssuedCertificate, ...]  # that are still valid; the kit's own last
    key_encrypted: bool = False  # the private key in the kit, at rest
    recipe: str = ""  # SHA-256 of what its texts were rendered from


@dataclass(frozen=True, kw_only=True)
class RemovedRecord:
    """A party that project.yml no longer names; its certificates are still valid."""

    name: str
    kit: KitRecord
    removed_at: datetime


@dataclass(frozen=True, kw_only=True)
class RevokedPerson:
    """A person's certificate that counts no more, although it has not expired."""

    name: str
    issuer: str  # hex; key id of the CA that issued it
    not_after: datetime  # until when it stays on the list
    at: datetime
    reason: Reason


@dataclass(frozen=True, kw_only=True)
class ProjectRecord:
    """The locked state of one project."""

    format: int
    id: str
    name: str
    trust_domain: str
    root_fingerprint: str
    kits: Mapping[str, KitRecord] = field(default_factory=dict)
    removed: Mapping[str, RemovedRecord] = field(default_factory=dict)  # by the folder in removed/
    revoked: Mapping[str, RevokedPerson] = field(default_factory=dict)  # by serial number, hex


def read_record(path: Path) -> ProjectRecord | None:
    """The record in `path`; None if there is none yet.

    Raises:
        StateDamaged: it cannot be read, or a later flprov wrote it.
    """
    if not path.exists() and not path.is_symlink():
        return None
    try:
        record = from_document(ProjectRecord, parse_json(read_stored(path, limit=_LARGEST).data))
    except (Unreadable, ValueError) as error:
        raise StateDamaged(
            f"{path} cannot be read: {error}",
            hint=f"restore {path} from the backup of this workspace; {path.name}{BACKUP} beside it is what it"
            " said before the last change",
        ) from error
    if record.format != FORMAT:
        raise StateDamaged(
            f"{path} has format {record.format}, and this flprov writes format {FORMAT}",
            hint="use the version of flprov that wrote it, or a later one",
        )
    return record


def encode_record(record: ProjectRecord) -> bytes:
    """The file's bytes: the same for the same record, a line per field so that people can compare."""
    return json.dumps(to_document(record), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def replace_keeping_backup(path: Path, data: bytes) -> None:
    """Replace a file of locked state in one step; what it said before is kept as `<name>.bak`.

    Raises:
        OSError: the disk is full, or the folder is not ours to write.
    """
    with contextlib.suppress(FileNotFoundError):
        before = path.read_bytes()
        write_atomic(path.with_name(path.name + BACKUP), before, mode=path.stat().st_mode & 0o777)
    write_atomic(path, data)
