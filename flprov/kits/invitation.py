# SPDX-License-Identifier: Apache-2.0
"""An invite as one line: where the server is, whom to believe there, and a certificate that may only join.

    flprov1:<base64url of: 2 bytes length, 4 bytes SHA-256, the compressed body>
    body:    canonical JSON, a NUL byte, then parts of 2 bytes length and as many bytes:
             the key's scalar, the invite's certificate, the *servers* CAs (DER)

It is a secret until it is used: whoever has it can become the site. Who is invited, and until when, stands
in the certificate and nowhere else, so there are no two places that could say different things. The root
is pinned by its fingerprint; the trust bundle that comes with the site's certificate must stand under it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import FlprovError, IdentityRefused, Misuse
from flprov.pki import (
    Anchors,
    Identity,
    Kind,
    certificate_identity,
    fingerprint,
    join_certificates,
    load_anchors,
    not_after,
    pack_key,
    split_certificates,
    unpack_key,
    verify_key_matches,
)
from flprov.project import NAME, split_address

MARK = "flprov1:"
_FAMILY = "flprov"
_LONGEST_LINE = 20_000  # characters; ours have 1,300 to 2,000
_LARGEST_BODY = 64 << 10  # bytes; ours have 1,500
_HEAD = 6
_MOST_ENDPOINTS = 16
_AGAIN = "ask for the line again, on one line or as a file; it is the same invite, and not used yet"


@dataclass(frozen=True, kw_only=True)
class _Body:
    """The JSON part."""

    project: str
    project_id: str
    server: str
    endpoints: tuple[str, ...]
    root: str  # SHA-256 of the root certificate, hex


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What an invite's line holds. `repr` shows no key."""

    project: str
    project_id: str
    server: str  # the server's name in its identity
    endpoints: tuple[str, ...]
    root: str  # the root's fingerprint, as `fingerprint` spells it
    server_anchors_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)  # the invite's certificate, alone
    private_pem: bytes = field(repr=False)

    @property
    def identity(self) -> Identity:
        """Who is invited: an identity of the kind INVITE."""
        return certificate_identity(self.chain_pem)

    @property
    def site(self) -> Identity:
        """Whom the invite lets in."""
        found = self.identity
        return Identity(trust_domain=found.trust_domain, kind=Kind.SITE, org=found.org, name=found.name)

    @property
    def expires(self) -> datetime:
        """The last moment at which it can be used."""
        return not_after(self.chain_pem)

    @property
    def server_anchors(self) -> Anchors:
        """Under which CAs the server must stand."""
        return load_anchors(self.server_anchors_pem)


def encode_invitation(invitation: Invitation) -> str:
    """The line."""
    body = _Body(
        project=invitation.project,
        project_id=invitation.project_id,
        server=invitation.server,
        endpoints=invitation.endpoints,
        root=invitation.root.removeprefix("SHA256:").replace(":", "").lower(),
    )
    leaf, *_ = split_certificates(invitation.chain_pem)
    parts = [pack_key(invitation.private_pem), leaf, *split_certificates(invitation.server_anchors_pem)]
    framed = b"".join(len(part).to_bytes(2, "big") + part for part in parts)
    packed = zlib.compress(canonical_json(body) + b"\0" + framed, 9)
    return MARK + base64.urlsafe_b64encode(_head(packed) + packed).decode().rstrip("=")


def _head(packed: bytes) -> bytes:
    return len(packed).to_bytes(2, "big") + hashlib.sha256(packed).digest()[:4]


def decode_invitation(text: str) -> Invitation:
    """The invite in a line; blanks and line ends that e-mail put into it do not matter.

    Raises:
        Misuse: it is none, was cut or changed on the way, or is of another version.
        IdentityRefused: it is whole, but what it holds does not belong together.
    """
    body = _unpack(_packed(_one_line(text)))
    try:
        invitation = _parse(body)
        _verify(invitation)
    except IdentityRefused as error:
        raise IdentityRefused(f"the invite is refused: {error}", hint=_AGAIN) from error
    except (ValueError, IndexError) as error:
        raise Misuse("the invite cannot be read: its parts are not as they should be", hint=_AGAIN) from error
    return invitation


def _one_line(text: str) -> str:
    if len(text) > _LONGEST_LINE:
        raise Misuse(f"that is no invite: it has {len(text)} characters, and an invite has less than 3000")
    line = "".join(text.split())
    if not line:
        raise Misuse("that is no invite: it is empty", hint="ask the admin for it: flprov invite create SITE")
    if line.startswith(MARK):
        return line.removeprefix(MARK)
    family, colon, _ = line.partition(":")
    version = family.removeprefix(_FAMILY)
    if colon and family.startswith(_FAMILY) and version.isascii() and version.isdigit():
        raise Misuse(
            f"the invite is of format {version[:6]}, and this flprov reads format 1",
            hint="install the version of flprov that your project uses",
        )
    raise Misuse(
        f"that is no invite: it does not begin with {MARK}",
        hint=f"give what comes from {MARK} on, without the rest of a mail; - reads it from stdin",
    )


def _packed(line: str) -> bytes:
    """The compressed body, once length and checksum fit. Nothing of it is repeated in a message."""
    try:
        data = base64.b64decode(line + "=" * (-len(line) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        if len(line) % 4 == 1:  # no whole number of bytes has so many characters
            raise _cut(f"its end is missing after {len(line)} characters") from error
        raise Misuse("the invite was changed on the way: it has odd characters", hint=_AGAIN) from error
    head, packed = data[:_HEAD], data[_HEAD:]
    wanted = int.from_bytes(head[:2], "big")
    if len(head) < _HEAD or len(packed) < wanted:
        raise _cut(f"{len(data)} of its {wanted + _HEAD if len(head) > 1 else 'many'} bytes came")
    if len(packed) > wanted:
        raise Misuse("the invite has something behind its end: it was changed on the way", hint=_AGAIN)
    if _head(packed) != head:
        raise Misuse("the invite was changed on the way: its checksum does not fit", hint=_AGAIN)
    return packed


def _cut(how: str) -> Misuse:
    return Misuse(f"the invite was cut on the way: {how}", hint=_AGAIN)


def _unpack(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        body = unpacking.decompress(packed, _LARGEST_BODY)
    except zlib.error as error:
        raise Misuse("the invite cannot be read: its body is not compressed as it should be") from error
    if not unpacking.eof or unpacking.unused_data:
        raise Misuse(f"the invite cannot be read: it would expand to more than {_LARGEST_BODY} bytes")
    return body


def _parse(data: bytes) -> Invitation:
    text, _, framed = data.partition(b"\0")
    body = from_document(_Body, parse_json(text))
    scalar, leaf, *anchors = _split(framed)
    if not anchors:
        raise ValueError("no anchor")
    return Invitation(
        project=body.project,
        project_id=body.project_id,
        server=body.server,
        endpoints=body.endpoints,
        root=_spell(bytes.fromhex(body.root)),
        server_anchors_pem=join_certificates(*anchors),
        chain_pem=join_certificates(leaf),
        private_pem=unpack_key(scalar),
    )


def _split(framed: bytes) -> Sequence[bytes]:
    parts = []
    while framed:
        size = int.from_bytes(framed[:2], "big")
        part, framed = framed[2 : 2 + size], framed[2 + size :]
        if len(part) != size:
            raise ValueError("a part is missing")
        parts.append(part)
    if len(parts) < 2:
        raise ValueError("parts are missing")
    return parts


def _spell(digest: bytes) -> str:
    if len(digest) != hashlib.sha256().digest_size:
        raise ValueError("no SHA-256")
    return "SHA256:" + digest.hex(":").upper()


def _verify(invitation: Invitation) -> None:
    """What can be checked without the server: the parts belong together."""
    if invitation.identity.kind is not Kind.INVITE:
        raise IdentityRefused(f"its certificate is of {invitation.identity}, not of an invite")
    verify_key_matches(invitation.chain_pem, invitation.private_pem)
    for anchor in invitation.server_anchors.members:
        if anchor.kind is not Kind.SERVER or anchor.trust_domain != invitation.identity.trust_domain:
            raise IdentityRefused("it names something as the CA of servers that is none of this project's")
    if not 1 <= len(invitation.endpoints) <= _MOST_ENDPOINTS:
        raise IdentityRefused(f"it has {len(invitation.endpoints)} addresses of the server")
    for endpoint in invitation.endpoints:
        try:
            split_address(endpoint)
        except ValueError as error:
            raise IdentityRefused("a name or an address in it is not one") from error
    if not re.fullmatch(NAME, invitation.server):
        raise IdentityRefused("a name or an address in it is not one")
    texts = (invitation.project, invitation.project_id, invitation.server, *invitation.endpoints)
    if not all(0 < len(text) <= 300 and text.isascii() and text.isprintable() for text in texts):
        raise IdentityRefused("a name or an address in it is not one")


def pick_root(invitation: Invitation, roots: Sequence[str]) -> Anchors:
    """The root that the invite pins, out of certificates (PEM) that somebody offers.

    Raises:
        IdentityRefused: it is not among them.
    """
    for text in roots:
        try:
            if fingerprint(text.encode()) == invitation.root:
                return load_anchors(text.encode())
        except FlprovError:
            continue
    raise IdentityRefused(
        f"the server offers another root than the invite names ({invitation.root})",
        hint="do not go on: ask whoever sent the invite, by telephone, which root the project has",
    )
