# SPDX-License-Identifier: Apache-2.0
"""What differs between a kit that lies there and the one that should: by file, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flprov._base import parse_json
from flprov.config import open_config
from flprov.errors import ConfigError, IdentityRefused
from flprov.kits.manifest import (
    ANCHORS,
    AUTHORITY,
    CERTIFICATE,
    KEY,
    REGISTRY,
    SETTINGS,
    SIGNER,
    TRUST,
    Contents,
    Files,
)
from flprov.kits.trust import decode_trust

_MOST_NAMES = 3


def changed_files(contents: Contents | None, files: Files) -> tuple[str, ...]:
    """Names of the files that are not as they should be. Who signed is no difference: it is always us."""
    stored = _stored(contents)
    stored.pop(SIGNER, None)
    wanted = {name: data for name, (data, _) in files.items()}
    return tuple(sorted(name for name in stored.keys() | wanted if stored.get(name) != wanted.get(name)))


def describe_changes(contents: Contents | None, files: Files, changed: Sequence[str]) -> tuple[str, ...]:
    """The same for people: which settings, which entries of the registry; else which files.

    Certificate and key are left to whoever knows why they are new. The texts that follow from a
    setting are named only when no setting explains them: then it is the template that is another.
    """
    old = _stored(contents)
    new = {name: data for name, (data, _) in files.items()}
    words: list[str] = []
    if SETTINGS in changed:
        words += _settings(old.get(SETTINGS, b""), new.get(SETTINGS, b""))
    if REGISTRY in changed:
        words += _registry(old.get(REGISTRY, b""), new.get(REGISTRY, b""))
    anchors = [name for name in changed if name.startswith(f"{ANCHORS}/")]
    if anchors:
        words.append(f"anchors: {_some(Path(name).stem for name in anchors)}")
    authority = [name for name in changed if name.startswith(f"{AUTHORITY}/")]
    if authority:
        words.append("the CAs that it issues from")
    if TRUST in changed:
        words.append(f"trust bundle: {_version(old.get(TRUST))} -> {_version(new.get(TRUST))}")
    texts = sorted({*changed} - {CERTIFICATE, KEY, SETTINGS, REGISTRY, TRUST, *anchors, *authority})
    if texts and SETTINGS not in changed:
        words.append(f"template: {_some(texts)}")
    return tuple(words)


def _version(data: bytes | None) -> str:
    try:
        return str(decode_trust(data).claimed_version) if data else "none"
    except IdentityRefused:
        return "unreadable"


def _stored(contents: Contents | None) -> dict[str, bytes]:
    return {} if contents is None else {name: file.data for name, file in contents.files.items()}


def _settings(old: bytes, new: bytes) -> list[str]:
    """`endpoints: a:1 -> a:2`; the template itself where no value differs."""
    before, after = _read_settings(old), _read_settings(new)
    if before is None or after is None:
        return [f"template: {SETTINGS}"]
    words = [
        f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    return words or [f"template: {SETTINGS}"]


def _read_settings(data: bytes) -> Mapping[str, object] | None:
    try:
        with open_config(Path(SETTINGS), text=data) as top:
            return {key: top.value(key) for key in top.keys()}  # noqa: SIM118 - a Section is no mapping
    except ConfigError:
        return None


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _registry(old: bytes, new: bytes) -> list[str]:
    """`registry: hospital-c added, bob changed`."""
    before, after = _read_registry(old), _read_registry(new)
    parts = [
        (sorted(after.keys() - before.keys()), "added"),
        (sorted(before.keys() - after.keys()), "removed"),
        (sorted(name for name in before.keys() & after if before[name] != after[name]), "changed"),
    ]
    words = [f"{_some(names)} {what}" for names, what in parts if names]
    return [f"registry: {'; '.join(words) or 'another order'}"]


def _read_registry(data: bytes) -> dict[str, object]:
    try:
        document = parse_json(data)
        return {entry["name"]: entry for kind in ("sites", "people") for entry in document[kind]}
    except (ValueError, KeyError, TypeError):
        return {}


def _some(names: Iterable[str]) -> str:
    """`a, b, c and 997 more`."""
    found = list(names)
    rest = len(found) - _MOST_NAMES
    return ", ".join(found[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")
