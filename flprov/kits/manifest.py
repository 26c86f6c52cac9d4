# SPDX-License-Identifier: Apache-2.0
"""The signed list of what a kit contains, and reading a kit against it.

`manifest.json` lists every file with its SHA-256, size and mode; `manifest.sig` is the provisioner's
ECDSA signature over exactly those bytes; `signer.pem` is the certificate it was made with, issued by
the root in `anchors/root.pem`. Each file is opened once and the bytes that were hashed are the bytes
that are used, so there is no gap between check and use.

A site that joined with an invite made its kit itself, far from the provisioner. There `manifest.sig` is
the site's own, and `signer.pem` the certificate that the server issued to it. Such a kit holds a trust
bundle, whose provisioner's signature proves the CAs: see `selfmade.py` for what is believed of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from flprov._base import canonical_json, dataclass, from_document, from_iso, parse_json
from flprov.errors import FlprovError, KitRefused, NotFound
from flprov.kits.reading import NOT_OURS, StoredFile, Unreadable, find_extra, read_stored
from flprov.kits.selfmade import SelfMade, is_self_made, verify_self_made
from flprov.pki import Kind, load_anchors, not_before, verify_signature, verify_signer

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
SIGNER = "signer.pem"
SETTINGS = "kit.yml"
REGISTRY = "registry.json"
CERTIFICATE = "identity/cert.pem"
KEY = "identity/key.pem"
ANCHORS = "anchors"
AUTHORITY = "authority"  # of the server's kit: the CAs from which it renews and enrols
TRUST = "trust.json"  # of the server's kit
ROOT = f"{ANCHORS}/root.pem"

FORMAT = 1
_LARGEST_MANIFEST = 1 << 20  # a manifest of thirteen files has 2 KB
_LARGEST_FILE = 64 << 20  # a registry of 100,000 sites has 6 MB
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")

Files = Mapping[str, tuple[bytes, int]]  # relative name -> bytes, mode; what `write_tree` takes


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a kit, as the manifest lists it."""

    sha256: str
    size: int
    mode: str  # octal, "0600"; what delivery restores. Only the key's is enforced: unzip loses modes


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says."""

    format: int
    kind: Kind
    name: str
    project: str
    project_id: str
    made_at: datetime
    files: Mapping[str, FileEntry]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A kit that agrees with its signed manifest: every byte that the manifest lists."""

    manifest: Manifest
    digest: str  # SHA-256 of manifest.json, hex: the kit's own fingerprint
    files: Mapping[str, StoredFile]


def build_manifest(
    files: Files, *, kind: Kind, name: str, project: str, project_id: str, now: datetime
) -> bytes:
    """The bytes of `manifest.json` for these files."""
    manifest = Manifest(
        format=FORMAT,
        kind=kind,
        name=name,
        project=project,
        project_id=project_id,
        made_at=now,
        files={path: file_entry(data, mode) for path, (data, mode) in files.items()},
    )
    return canonical_json(manifest) + b"\n"


def digest_of(manifest: bytes) -> str:
    """The fingerprint of a kit: SHA-256 of its `manifest.json`, hex."""
    return hashlib.sha256(manifest).hexdigest()


def file_entry(data: bytes, mode: int) -> FileEntry:
    """The manifest's line for one file."""
    return FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data), mode=f"{mode:04o}")


def read_contents(folder: Path, *, now: datetime, trusted: str | None = None) -> Contents:
    """Read a kit folder and verify all of it against its signed manifest.

    Args:
        trusted: the digest of a manifest whose signature this machine has verified (or made) before;
            such a manifest is not verified again.

    Raises:
        NotFound: there is no such folder.
        KitRefused: the signature is wrong, or files were changed, added, dropped, replaced by links or
            cannot be read; the message names each.
    """
    _require_folder(folder)
    raw = _read_required(folder, MANIFEST)
    digest = digest_of(raw)
    if digest == trusted:
        manifest = _read_trusted(raw)
        return Contents(manifest=manifest, digest=digest, files=_read_listed(folder, manifest))
    if is_self_made(_read_required(folder, SIGNER)):
        contents = _contents(folder, raw)
        _verify_self_made(folder, raw, contents, now)
        return contents
    signer = _verify_manifest(folder, raw, now)
    contents = _contents(folder, raw)
    project = contents.manifest.project
    if not signer.endswith(f"/provisioner/{project}"):
        raise KitRefused(
            f"{folder}: {MANIFEST} is of project {project} and signed by {signer}", hint=_WAY_BACK
        )
    return contents


_WAY_BACK = "put back the kit as it was delivered, or ask for a new one whoever provisions this project"


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise NotFound(f"there is no kit at {folder}", hint="give the path of a kit's folder")
    if not folder.is_dir():
        raise KitRefused(f"{folder} is not a folder, so it is no kit", hint="unpack it first")
    if (folder / MANIFEST).exists() or (folder / MANIFEST).is_symlink():
        return
    hint = "give the path of a kit's folder: the one that holds kit.yml and manifest.json"
    inside = sorted(path.parent for way in ("*", "kits/*") for path in folder.glob(f"{way}/{MANIFEST}"))
    if inside:
        hint = f"it holds kits: name one of them, such as {inside[0]}"
    raise KitRefused(f"{folder} is no kit: it has no {MANIFEST}", hint=hint)


def _read_required(folder: Path, name: str) -> bytes:
    try:
        return read_stored(folder / name, limit=_LARGEST_MANIFEST).data
    except Unreadable as error:
        problem = f"{name} {error}"
        raise KitRefused(f"{folder}: {problem}", hint=_hint_for(folder, [problem])) from error


def _verify_manifest(folder: Path, raw: bytes, now: datetime) -> str:
    """The URI of the provisioner who signed the manifest."""
    signer, root, signature = (_read_required(folder, name) for name in (SIGNER, ROOT, SIGNATURE))
    try:
        _verify_begun(folder, signer, now)
        uri = verify_signer(signer, load_anchors(root), now=now)
    except KitRefused:
        raise
    except FlprovError as error:
        raise KitRefused(
            f"{folder}: {SIGNER} is not a provisioner's certificate from {ROOT}: {error}", hint=_WAY_BACK
        ) from error
    try:
        verify_signature(raw, signature, signer)
    except FlprovError as error:
        raise KitRefused(
            f"{folder}: {SIGNATURE} is not the provisioner's signature of {MANIFEST}:"
            " one of the two was changed",
            hint=_WAY_BACK,
        ) from error
    return uri


def _verify_begun(folder: Path, signer: bytes, now: datetime) -> None:
    """A kit from the future means that the clock here is slow."""
    start = not_before(signer)
    if now < start:
        raise KitRefused(
            f"{folder}: this kit was made on {start:%Y-%m-%d %H:%M} UTC, and this machine's clock says"
            f" {now:%Y-%m-%d %H:%M} UTC",
            hint="set this machine's clock (timedatectl shows it)",
        )


def _verify_self_made(folder: Path, raw: bytes, contents: Contents, now: datetime) -> None:
    """The kit of a site that joined with an invite."""
    manifest = contents.manifest
    names = (SIGNER, CERTIFICATE, ROOT, TRUST, f"{ANCHORS}/servers.pem", f"{ANCHORS}/people.pem")
    missing = [name for name in names if name not in contents.files]
    if missing:
        raise KitRefused(f"{folder}: the site signed this kit itself, and it has no {missing[0]}")
    signer, certificate, root, trust, servers, people = (contents.files[name].data for name in names)
    _verify_begun(folder, signer, now)
    try:
        verify_self_made(
            SelfMade(
                manifest=raw,
                signature=_read_required(folder, SIGNATURE),
                signer=signer,
                certificate=certificate,
                root=root,
                trust=trust,
                servers=servers,
                people=people,
            ),
            kind=manifest.kind,
            name=manifest.name,
            project=manifest.project,
            project_id=manifest.project_id,
            now=now,
        )
    except FlprovError as error:
        raise KitRefused(f"{folder}: {MANIFEST} is refused: {error}", hint=_WAY_BACK) from error


def _contents(folder: Path, raw: bytes) -> Contents:
    """Every file that the manifest lists. Who signed the manifest is another question."""
    manifest = _parse_manifest(folder, raw)
    return Contents(manifest=manifest, digest=digest_of(raw), files=_read_listed(folder, manifest))


def _read_trusted(raw: bytes) -> Manifest:
    """A manifest that we made ourselves, to the byte: read without looking at each field twice."""
    found = parse_json(raw)
    return Manifest(
        format=found["format"],
        kind=Kind(found["kind"]),
        name=found["name"],
        project=found["project"],
        project_id=found["project_id"],
        made_at=from_iso(found["made_at"]),
        files={name: FileEntry(**entry) for name, entry in found["files"].items()},
    )


def _parse_manifest(folder: Path, raw: bytes) -> Manifest:
    try:
        manifest = from_document(Manifest, parse_json(raw))
    except ValueError as error:
        raise KitRefused(f"{folder}: {MANIFEST} cannot be read: {error}", hint=_WAY_BACK) from error
    if manifest.format != FORMAT:
        raise KitRefused(
            f"{folder}: this kit has format {manifest.format}, and this flprov reads format {FORMAT}",
            hint="install the version of flprov that your project uses",
        )
    for name in manifest.files:
        if not _NAME.fullmatch(name):
            raise KitRefused(f"{folder}: {MANIFEST} lists a file that no kit has: {name!r}", hint=_WAY_BACK)
    return manifest


def _read_listed(folder: Path, manifest: Manifest) -> dict[str, StoredFile]:
    problems = find_extra(folder, {*manifest.files, MANIFEST, SIGNATURE})
    files = {}
    for name, entry in manifest.files.items():
        try:
            stored = read_stored(folder / name, limit=_LARGEST_FILE)
        except Unreadable as error:
            problems.append(f"{name} {error}")
            continue
        if len(stored.data) != entry.size or hashlib.sha256(stored.data).hexdigest() != entry.sha256:
            problems.append(f"{name} was changed after the kit was made")
        files[name] = stored
    if problems:
        raise KitRefused(f"{folder}: {'; '.join(dict.fromkeys(problems))}", hint=_hint_for(folder, problems))
    return files


def _hint_for(folder: Path, problems: Sequence[str]) -> str:
    if all(problem.endswith(NOT_OURS) for problem in problems):
        owner = folder.stat().st_uid
        return f"run this as the user that the kit belongs to, uid {owner}: sudo -u '#{owner}' flprov ..."
    if any(problem.startswith(("site.yml", "policy.yml")) for problem in problems):
        return f"a kit never changes; this machine's own files belong in {folder.absolute()}.local/"
    return _WAY_BACK
