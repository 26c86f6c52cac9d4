# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates read once, strictly, into plain values.

Everything that a rule looks at is taken out here, so that a malformed field is refused at this door and
no rule has to expect a parser's error. What was read is not yet trusted.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtensionOID, NameOID

from flprov.errors import IdentityRefused
from flprov.pki.identity import Identity, parse_identity, show
from flprov.pki.profiles import BACKDATED

_LARGEST_PEM = 64 * 1024
_BLOCK = re.compile(
    rb"\s*-----BEGIN CERTIFICATE-----\r?\n"
    rb"([A-Za-z0-9+/=\r\n]+?)"
    rb"\r?\n-----END CERTIFICATE-----[ \t]*(?:\r?\n|$)"
)

# What the parser raises on bytes that are not a well-formed certificate. The warning (an exception only
# where warnings are errors) is its way to say that a serial number is not positive.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate:
    """One certificate, read but not verified. Equal when the bytes are."""

    der: bytes = field(repr=False)
    source: x509.Certificate = field(repr=False)
    version: int  # 3 for v3
    serial: int
    subject: x509.Name
    issuer: x509.Name
    not_before: datetime
    not_after: datetime
    key: CertificatePublicKeyTypes | None = field(repr=False)  # None: of a type the parser does not know
    hash: hashes.HashAlgorithm | None  # of the issuer's signature
    extensions: Mapping[x509.ObjectIdentifier, x509.Extension[Any]] = field(repr=False)
    uris: tuple[str, ...]  # subjectAltName, URIs
    host_names: tuple[str, ...]  # subjectAltName, DNS names and IP addresses
    other_names: int  # subjectAltName, how many of any other kind
    key_id: bytes | None  # subjectKeyIdentifier
    issuer_key_id: bytes | None  # authorityKeyIdentifier

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    @property
    def issued_at(self) -> datetime:
        """When it was made: every certificate of ours is valid from a little before."""
        return self.not_before + BACKDATED

    @property
    def pem(self) -> bytes:
        """The certificate as one PEM block."""
        return write_pem(self.der)

    @property
    def claim(self) -> str:
        """What to call it in a message: its identity if it spells one, else its serial number."""
        try:
            return str(parse_identity(self.uris[0]))
        except (IndexError, IdentityRefused):
            return f"serial {self.serial:x}"


def write_pem(der: bytes) -> bytes:
    """One PEM block (RFC 7468)."""
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""])


def split_pem(pem: bytes, *, most: int) -> list[bytes]:
    """The DER of each certificate in `pem`, which must hold certificates and nothing else.

    Raises:
        IdentityRefused: it holds none, more than `most`, or anything beside them.
    """
    if len(pem) > _LARGEST_PEM * most:
        raise IdentityRefused(f"a certificate file of {len(pem)} bytes is too large")
    found: list[bytes] = []
    position = 0
    while position < len(pem):
        block = _BLOCK.match(pem, position)
        if block is None:
            break
        if len(found) == most:
            raise IdentityRefused(f"the PEM text holds more than {most} certificates")
        found.append(_decode(block[1]))
        position = block.end()
    if not found:
        raise IdentityRefused("no PEM certificate was found")
    if pem[position:].strip():
        raise IdentityRefused("there are bytes beside the PEM certificate that do not belong to it")
    return found


def _decode(body: bytes) -> bytes:
    try:
        return base64.b64decode(body.replace(b"\r", b"").replace(b"\n", b""), validate=True)
    except ValueError as error:
        raise IdentityRefused("the PEM certificate is not base64") from error


def read_certificate(der: bytes) -> Certificate:
    """The certificate in `der`, whole: no byte before, after or unaccounted for.

    Raises:
        IdentityRefused: it is not a well-formed certificate.
    """
    try:
        return _read(der)
    except UNREADABLE as error:
        raise IdentityRefused(f"the certificate cannot be read: {_summary(error)}") from error


def read_first(pem: bytes) -> Certificate:
    """The first certificate of a PEM chain: the leaf."""
    return read_certificate(split_pem(pem, most=8)[0])


def _summary(error: Exception) -> str:
    text = str(error)
    if "ExtraData" in text:
        return "there are trailing bytes"
    if isinstance(error, x509.DuplicateExtension):
        return f"the extension {error.oid.dotted_string} stands in it twice"
    if isinstance(error, x509.InvalidVersion):
        return f"its version is {error.parsed_version + 1}, not 3"
    if isinstance(error, CryptographyDeprecationWarning):
        return "its serial number is not positive"
    return "it is not well-formed X.509"


@functools.lru_cache(maxsize=64)  # a command reads the eight certificates of its kit 23 times
def _read(der: bytes) -> Certificate:
    source = x509.load_der_x509_certificate(der)
    extensions = {extension.oid: extension for extension in source.extensions}
    uris, host_names, other_names = _read_names(extensions)
    own = extensions.get(ExtensionOID.SUBJECT_KEY_IDENTIFIER)
    issuers = extensions.get(ExtensionOID.AUTHORITY_KEY_IDENTIFIER)
    return Certificate(
        der=der,
        source=source,
        version=source.version.value + 1,
        serial=source.serial_number,
        subject=source.subject,
        issuer=source.issuer,
        not_before=source.not_valid_before_utc,
        not_after=source.not_valid_after_utc,
        key=_read_key(source),
        hash=_read_hash(source),
        extensions=extensions,
        uris=uris,
        host_names=host_names,
        other_names=other_names,
        key_id=own.value.digest if own else None,
        issuer_key_id=issuers.value.key_identifier if issuers else None,
    )


def _read_key(source: x509.Certificate) -> CertificatePublicKeyTypes | None:
    try:
        return source.public_key()
    except UnsupportedAlgorithm:
        return None


def _read_hash(source: x509.Certificate) -> hashes.HashAlgorithm | None:
    try:
        return source.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None


def _read_names(
    extensions: Mapping[x509.ObjectIdentifier, x509.Extension[Any]],
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    extension = extensions.get(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    uris: list[str] = []
    hosts: list[str] = []
    others = 0
    for name in extension.value if extension else ():
        if isinstance(name, x509.UniformResourceIdentifier):
            uris.append(name.value)
        elif isinstance(name, x509.DNSName | x509.IPAddress):
            hosts.append(str(name.value))
        else:
            others += 1
    return tuple(uris), tuple(hosts), others


def subject_text(name: x509.Name, oid: x509.ObjectIdentifier = NameOID.COMMON_NAME) -> str:
    """One attribute of a subject; empty if absent or doubled. For messages and trusted CAs only."""
    found = name.get_attributes_for_oid(oid)
    value = found[0].value if len(found) == 1 else ""
    return value if isinstance(value, str) else ""


def describe_issuer(certificate: Certificate) -> str:
    """The issuer as a message shows it."""
    return show(subject_text(certificate.issuer) or certificate.issuer.rfc4514_string())


def issuer_name(certificate_pem: bytes) -> str:
    """Who issued the first certificate, by its own word: for naming whoever opens a connection.

    Raises:
        IdentityRefused: it cannot be read.
    """
    return describe_issuer(read_first(certificate_pem))


def fingerprint(certificate_pem: bytes) -> str:
    """SHA-256 over the first certificate's DER, as `openssl x509 -fingerprint -sha256` spells it."""
    return spell_fingerprint(split_pem(certificate_pem, most=8)[0])


def spell_fingerprint(der: bytes) -> str:
    """`fingerprint` for a certificate that was read already."""
    digest = hashlib.sha256(der).hexdigest().upper()
    return "SHA256:" + ":".join(digest[start : start + 2] for start in range(0, len(digest), 2))


def serial_number(certificate_pem: bytes) -> str:
    """The first certificate's serial number, in hex: what a revocation names.

    Never revoke by fingerprint: an ECDSA signature (r, s) can be turned into (r, -s) by anyone, which
    gives the same certificate another fingerprint.
    """
    return f"{read_first(certificate_pem).serial:x}"


def not_after(certificate_pem: bytes) -> datetime:
    """The last moment at which the first certificate is valid."""
    return read_first(certificate_pem).not_after


def not_before(certificate_pem: bytes) -> datetime:
    """The first moment at which the first certificate is valid (5 minutes before it was made)."""
    return read_first(certificate_pem).not_before


def issued_at(certificate_pem: bytes) -> datetime:
    """When the first certificate was made, in whole seconds: the second in which it was, never later."""
    return read_first(certificate_pem).issued_at


def authority_key_id(certificate_pem: bytes) -> str:
    """A CA's own key identifier, in hex: `Leaf.issuer_key_id` of everything that it issues.

    Raises:
        IdentityRefused: it cannot be read, or has none.
    """
    certificate = read_first(certificate_pem)
    if not certificate.key_id:
        raise IdentityRefused(f"the certificate of {certificate.claim} has no subjectKeyIdentifier")
    return certificate.key_id.hex()


def host_names(certificate_pem: bytes) -> tuple[str, ...]:
    """The DNS names and IP addresses of the first certificate. Nothing is verified."""
    return read_first(certificate_pem).host_names


def certificate_identity(certificate_pem: bytes) -> Identity:
    """What the first certificate says it is. Nothing is verified: not for decisions.

    Raises:
        IdentityRefused: it cannot be read, or carries no single identity.
    """
    certificate = read_first(certificate_pem)
    if len(certificate.uris) != 1:
        raise IdentityRefused(f"the certificate has {len(certificate.uris)} SPIFFE URIs, not one")
    return parse_identity(certificate.uris[0])


def public_der(key: CertificatePublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo, for comparing keys."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
