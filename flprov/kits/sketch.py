# SPDX-License-Identifier: Apache-2.0
"""What can be read of a kit that may be damaged, tampered with or expired: for diagnosis, never for trust.

`load_kit` refuses such a kit with one reason. Whoever looks for all that is wrong needs what is left.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import parse_json
from flprov.config import open_config
from flprov.errors import FlprovError, KitRefused
from flprov.kits.credential import FILE as RENEWED
from flprov.kits.heldtrust import FILE as TRUST_FILE
from flprov.kits.heldtrust import HeldTrust
from flprov.kits.manifest import ANCHORS, CERTIFICATE, KEY, MANIFEST, ROOT, SETTINGS
from flprov.kits.reading import Unreadable, read_stored
from flprov.pki import Anchors, Kind, decrypt_key, is_encrypted, load_anchors, verify_key_matches
from flprov.project import Route, parse_proxy

_LIMIT = 1 << 20
_BLOCK = re.compile(rb"-----BEGIN ([A-Z ]+)-----\r?\n.*?-----END \1-----\r?\n?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Papers:
    """A certificate with its key, as they lie there. `repr` shows no key."""

    source: Path
    chain_pem: bytes = field(repr=False)
    private_pem: bytes = field(default=b"", repr=False)  # empty: `key_problem` says why
    key_problem: str = ""


@dataclass(frozen=True, kw_only=True)
class KitSketch:
    """A kit as far as it can be read. Nothing of it is verified."""

    folder: Path
    kind: Kind | None  # None: it does not even say that
    name: str = ""
    project: str = ""
    contact: str = ""
    endpoints: tuple[str, ...] = ()
    listen: str = ""
    route: Route | None = None
    papers: tuple[Papers, ...] = ()  # the kit's own, and the renewed ones beside it
    server_anchors: Anchors | None = None
    anchors_problem: str = ""

    @property
    def local(self) -> Path:
        """This machine's own folder beside the kit."""
        return self.folder.with_name(f"{self.folder.name}.local")


def sketch_kit(folder: Path, *, now: datetime, passphrase: bytes | None = None) -> KitSketch:
    """What there is of a kit in `folder`; nothing that is missing or wrong stops it.

    Raises:
        KitRefused: it is the root of the file system.
    """
    folder = Path(os.path.realpath(folder))
    if not folder.name:
        raise KitRefused(f"{folder} cannot be a kit", hint="give the path of a kit's folder")
    settings = _read_settings(folder)
    anchors, anchors_problem = _read_anchors(folder)
    local = folder.with_name(f"{folder.name}.local")
    found = (_read_own(folder, passphrase), _read_renewed(local / "state" / RENEWED))
    return KitSketch(
        folder=folder,
        kind=_read_kind(folder, settings),
        name=_text(settings, "name"),
        project=_text(settings, "project"),
        contact=_text(settings, "contact"),
        endpoints=_texts(settings, "endpoints"),
        listen=_text(settings, "listen"),
        route=_read_route(_text(settings, "proxy")),
        papers=tuple(papers for papers in found if papers is not None),
        server_anchors=_read_held(folder, local, _text(settings, "project_id"), now) or anchors,
        anchors_problem=anchors_problem,
    )


def _read_settings(folder: Path) -> Mapping[str, object]:
    try:
        text = read_stored(folder / SETTINGS, limit=_LIMIT).data
        with open_config(folder / SETTINGS, text=text) as top:
            return {key: top.value(key) for key in top.keys()}  # noqa: SIM118 - a Section is no mapping
    except (Unreadable, FlprovError):
        return {}


def _text(settings: Mapping[str, object], key: str) -> str:
    value = settings.get(key)
    return value if isinstance(value, str) else ""


def _texts(settings: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = settings.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _read_route(text: str) -> Route | None:
    try:
        return Route(proxy=parse_proxy(text), source=SETTINGS) if text else None
    except ValueError:
        return None


def _read_kind(folder: Path, settings: Mapping[str, object]) -> Kind | None:
    known = {kind.value: kind for kind in (Kind.SERVER, Kind.SITE, Kind.PERSON)}
    found = known.get(_text(settings, "kind"))
    if found is not None:
        return found
    try:
        document = parse_json(read_stored(folder / MANIFEST, limit=_LIMIT).data)
    except (Unreadable, ValueError):
        return None
    return known.get(str(document.get("kind"))) if isinstance(document, dict) else None


def _read_own(folder: Path, passphrase: bytes | None) -> Papers | None:
    path = folder / CERTIFICATE
    try:
        chain = read_stored(path, limit=_LIMIT).data
    except Unreadable:
        return None
    try:
        private, problem = read_stored(folder / KEY, limit=_LIMIT).data, ""
    except Unreadable as error:
        return Papers(source=path, chain_pem=chain, key_problem=f"{folder / KEY} {error}")
    if is_encrypted(private):
        private, problem = _open(private, passphrase)
    return _verified(Papers(source=path, chain_pem=chain, private_pem=private, key_problem=problem))


def _open(private: bytes, passphrase: bytes | None) -> tuple[bytes, str]:
    if not passphrase:
        return b"", "the key is encrypted, and no passphrase was given (FLPROV_KIT_PASSPHRASE)"
    try:
        return decrypt_key(private, passphrase), ""
    except FlprovError:
        return b"", "the passphrase does not open the key"


def _read_renewed(path: Path) -> Papers | None:
    try:
        data = read_stored(path, limit=_LIMIT).data
    except Unreadable:
        return None
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(data)]
    chain = b"".join(block for label, block in blocks if label == b"CERTIFICATE")
    private = b"".join(block for label, block in blocks if label.endswith(b"PRIVATE KEY"))
    if not chain or not private:
        return None
    return _verified(Papers(source=path, chain_pem=chain, private_pem=private))


def _verified(papers: Papers) -> Papers:
    """Without the key where it is not the certificate's."""
    if not papers.private_pem:
        return papers
    try:
        verify_key_matches(papers.chain_pem, papers.private_pem)
    except FlprovError as error:
        return Papers(source=papers.source, chain_pem=papers.chain_pem, key_problem=str(error))
    return papers


def _read_held(folder: Path, local: Path, project_id: str, now: datetime) -> Anchors | None:
    """Of the newest trust bundle that is held here: once a CA was replaced, the kit's anchors are old."""
    try:
        roots = load_anchors(read_stored(folder / ROOT, limit=_LIMIT).data)
        held = HeldTrust(local / "state" / TRUST_FILE, roots, project_id=project_id)
        held.load(now)
    except (Unreadable, FlprovError, OSError):
        return None
    return held.current.anchors["servers"] if held.current else None


def _read_anchors(folder: Path) -> tuple[Anchors | None, str]:
    path = folder / ANCHORS / "servers.pem"
    try:
        return load_anchors(read_stored(path, limit=_LIMIT).data), ""
    except Unreadable as error:
        return None, f"{path} {error}"
    except FlprovError as error:
        return None, f"{path}: {error}"
