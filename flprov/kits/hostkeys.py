# SPDX-License-Identifier: Apache-2.0
"""Which host keys are believed: pinned ones only, from a text or from known_hosts files (sshd(8)).

A key that nobody pinned is refused, whatever the host; there is no first use on trust. Certificates of
host authorities (`@cert-authority`) are not supported and such lines are passed over.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flprov.errors import IdentityRefused, LocalError, Misuse

_LARGEST = 16 << 20
_SSH_PORT = 22


@dataclass(frozen=True, kw_only=True)
class HostKey:
    """A public key of a host, as known_hosts writes it."""

    type: str  # "ssh-ed25519"
    blob: bytes  # as it goes over the wire

    @property
    def fingerprint(self) -> str:
        """`SHA256:...`, as `ssh-keygen -l` prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.type} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True, kw_only=True)
class Pins:
    """What is believed of one host."""

    keys: tuple[HostKey, ...]
    revoked: tuple[HostKey, ...] = ()
    source: str  # where the keys come from, for messages

    @property
    def types(self) -> tuple[str, ...]:
        """The types of the keys, so that the host is asked for one of these."""
        return tuple(dict.fromkeys(key.type for key in self.keys))


def parse_host_key(text: str) -> HostKey:
    """A key as `ssh-keyscan` or a `.pub` file shows it: `ssh-ed25519 AAAA... [comment]`.

    Raises:
        Misuse: it is none.
    """
    try:
        kind, encoded, *_ = text.split()
        return _host_key(kind, encoded)
    except ValueError:
        raise Misuse(
            "a host key is not of the form 'ssh-ed25519 AAAA...'",
            hint="at the host: cat /etc/ssh/ssh_host_ed25519_key.pub",
        ) from None


def _host_key(kind: str, encoded: str) -> HostKey:
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    length = int.from_bytes(blob[:4], "big")  # RFC 4253, 6.6: the blob begins with its type
    if blob[4 : 4 + length] != kind.encode() or len(blob) <= 4 + length:
        raise ValueError("the key is of another type than it says")
    return HostKey(type=kind, blob=blob)


def read_pins(files: Iterable[Path], host: str, port: int) -> Pins:
    """What known_hosts files say of a host. Files that are not there say nothing.

    Raises:
        LocalError: a file cannot be read.
    """
    keys: list[HostKey] = []
    revoked: list[HostKey] = []
    files = tuple(files)
    name = host if port == _SSH_PORT else f"[{host}]:{port}"
    for file in files:
        for line in _read_lines(file):
            _take_line(line, name, keys, revoked)
    return Pins(
        keys=tuple(dict.fromkeys(keys)),
        revoked=tuple(revoked),
        source=", ".join(str(file) for file in files) or "nothing",
    )


def _read_lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}") from error


def _take_line(line: str, name: str, keys: list[HostKey], revoked: list[HostKey]) -> None:
    fields = line.split()
    marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
    if len(fields) < 3 or fields[0].startswith("#") or not _matches(fields[0], name):
        return
    try:
        key = _host_key(fields[1], fields[2])
    except ValueError:
        return
    if marker == "@revoked":
        revoked.append(key)
    elif not marker:
        keys.append(key)


def _matches(patterns: str, name: str) -> bool:
    """Whether the first field of a line of known_hosts is about `name`."""
    if patterns.startswith("|1|"):
        return _matches_hash(patterns, name)
    found = False
    for pattern in patterns.split(","):
        wanted = pattern.removeprefix("!")
        # Only * and ? are special in known_hosts; brackets belong to [host]:port.
        if fnmatch.fnmatchcase(name.lower(), wanted.lower().replace("[", "[[]")):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _matches_hash(hashed: str, name: str) -> bool:
    try:
        _, _, salt, digest = hashed.split("|")
        expected = base64.b64decode(digest, validate=True)
        made = hmac.new(base64.b64decode(salt, validate=True), name.encode(), hashlib.sha1).digest()
    except ValueError:
        return False
    return hmac.compare_digest(made, expected)


def verify_host_key(found: HostKey, pins: Pins, *, where: str) -> HostKey:
    """The key, if it is pinned.

    Raises:
        IdentityRefused: it is not; the message shows its fingerprint.
    """
    shown = f"{found.type} {found.fingerprint}"
    if found in pins.revoked:
        raise IdentityRefused(f"{where} shows the host key {shown}, which {pins.source} marks as revoked")
    if found in pins.keys:
        return found
    if pins.keys:
        raise IdentityRefused(
            f"{where} shows the host key {shown}, and pinned in {pins.source} is {_list(pins.keys)}."
            " Nothing was sent",
            hint="somebody may stand between; ask the host's people whether its key was changed, and pin the"
            " new one only when they have read it to you",
        )
    raise IdentityRefused(
        f"nobody has pinned the host key of {where}, which is {shown}. Nothing was sent",
        hint="ask the host's people for theirs (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub); if it is"
        f" this one: --host-key '{found}', or a line in known_hosts",
    )


def _list(keys: Sequence[HostKey]) -> str:
    return " or ".join(f"{key.type} {key.fingerprint}" for key in keys)
