# SPDX-License-Identifier: Apache-2.0
"""Certificates that no CA of ours would issue, each wrong in one thing.

`forge` without changes gives a good certificate (a test says so), so whatever is changed is the reason
for the refusal. `resign` edits the DER itself, for what no library would build.
"""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from flprov.errors import IdentityRefused
from flprov.pki import (
    Anchors,
    Authority,
    Identity,
    Kind,
    Role,
    create_issuing,
    create_root,
    join_anchors,
    verify_peer,
)

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
DOMAIN = "heart.example"
SITE_URI = f"spiffe://{DOMAIN}/site/uni-a/hospital-a"

SITE = Identity(trust_domain=DOMAIN, kind=Kind.SITE, org="uni-a", name="hospital-a")
SERVER = Identity(trust_domain=DOMAIN, kind=Kind.SERVER, name="server1")
PERSON = Identity(trust_domain=DOMAIN, kind=Kind.PERSON, org="uni-a", role=Role.LEAD, name="ada")
INVITE = Identity(
    trust_domain=DOMAIN, kind=Kind.INVITE, org="uni-a", name="hospital-a", invite="0123456789abcdef"
)

CLIENT, SERVE = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CODE, ANY = ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE


@dataclass(frozen=True, kw_only=True)
class World:
    """One project's CAs."""

    root: Authority
    servers: Authority
    sites: Authority
    people: Authority

    def of(self, kind: Kind) -> Authority:
        return {
            Kind.SERVER: self.servers,
            Kind.SITE: self.sites,
            Kind.PERSON: self.people,
            Kind.INVITE: self.sites,
        }[kind]

    @property
    def clients(self) -> Anchors:
        """What the server trusts."""
        return join_anchors(self.sites.anchors, self.people.anchors)

    @property
    def everyone(self) -> Anchors:
        return join_anchors(self.clients, self.servers.anchors)


def make_world(now: datetime = NOW, domain: str = DOMAIN) -> World:
    root = create_root(project="heart", trust_domain=domain, days=3650, now=now)

    def issuing(kind: Kind) -> Authority:
        return create_issuing(root, kind=kind, days=1825, now=now)

    return World(
        root=root, servers=issuing(Kind.SERVER), sites=issuing(Kind.SITE), people=issuing(Kind.PERSON)
    )


def usage(*names: str) -> x509.KeyUsage:
    every = inspect.signature(x509.KeyUsage).parameters
    return x509.KeyUsage(**{name: name in names for name in every})


def basic(*, ca: bool, path_length: int | None = None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca, path_length)


def uris(*values: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(value) for value in values]


NO_CA = basic(ca=False)
SIGNS = usage("digital_signature")
SHA256 = hashes.SHA256()


def forge(
    ca: Authority,
    *,
    key=None,
    signer=None,
    issuer: x509.Name | None = None,
    subject: str = "hospital-a",
    names: list[x509.GeneralName] | None = None,
    constraints: x509.BasicConstraints | None = NO_CA,
    constraints_critical: bool = True,
    key_usage: x509.KeyUsage | None = SIGNS,
    key_usage_critical: bool = True,
    eku: list[x509.ObjectIdentifier] | None = None,
    starts: datetime = NOW - timedelta(minutes=5),
    ends: datetime = NOW + timedelta(days=90),
    identifier: x509.AuthorityKeyIdentifier | None = None,
    no_identifier: bool = False,
    extra: list[tuple[x509.ExtensionType, bool]] | None = None,
    algorithm: hashes.HashAlgorithm = SHA256,
) -> bytes:
    """A site's certificate in PEM, with the named things changed."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(ca.anchor.certificate.subject if issuer is None else issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts)
        .not_valid_after(ends)
    )
    found: list[tuple[x509.ExtensionType | None, bool]] = [
        (constraints, constraints_critical),
        (key_usage, key_usage_critical),
        (x509.ExtendedKeyUsage([CLIENT] if eku is None else eku) if eku != [] else None, False),
        (
            x509.SubjectAlternativeName(uris(SITE_URI) if names is None else names) if names != [] else None,
            False,
        ),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (None if no_identifier else identifier or ca.key_identifier, False),
        *(extra or []),
    ]
    for extension, critical in found:
        if extension is not None:
            builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer or ca.key, algorithm).public_bytes(serialization.Encoding.PEM)


def refuse(pem, anchors, words, *, now=NOW, kinds=None) -> IdentityRefused:
    """The refusal by `verify_peer`, fit for a stranger's screen and matching `words`."""
    with pytest.raises(IdentityRefused, match=words) as caught:
        verify_peer(pem, anchors, now=now, kinds=kinds)
    text = str(caught.value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 500
    return caught.value


def to_pem(der: bytes, label: bytes = b"CERTIFICATE") -> bytes:
    text = base64.encodebytes(der).replace(b"\n", b"")
    lines = b"\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return b"-----BEGIN " + label + b"-----\n" + lines + b"\n-----END " + label + b"-----\n"


def to_der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def tlv(tag: int, body: bytes) -> bytes:
    """One DER element."""
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def children(element: bytes) -> list[bytes]:
    """The DER elements inside one."""
    _, rest = _open(element)
    found = []
    while rest:
        start, body = _open(rest)
        found.append(rest[: start + len(body)])
        rest = rest[start + len(body) :]
    return found


def _open(data: bytes) -> tuple[int, bytes]:
    if data[1] < 0x80:
        return 2, data[2 : 2 + data[1]]
    start = 2 + (data[1] & 0x7F)
    length = int.from_bytes(data[2:start], "big")
    return start, data[start : start + length]


SHA256_OID = bytes.fromhex("06082a8648ce3d040302")
SHA1_OID = bytes.fromhex("06072a8648ce3d0401")


def resign(
    pem: bytes,
    ca: Authority,
    edit: Callable[[list[bytes]], list[bytes]],
    *,
    algorithm: hashes.HashAlgorithm = SHA256,
) -> bytes:
    """The certificate with the fields of its TBSCertificate edited, signed anew by `ca`.

    The fields: 0 version, 1 serial, 2 algorithm, 3 issuer, 4 validity, 5 subject, 6 key, 7 extensions.
    """
    return to_pem(_resign(to_der(pem), ca, edit, algorithm))


def resign_crl(
    pem: bytes,
    ca: Authority,
    edit: Callable[[list[bytes]], list[bytes]] = lambda fields: fields,
    *,
    algorithm: hashes.HashAlgorithm = SHA256,
) -> bytes:
    """The CRL with the fields of its TBSCertList edited, signed anew by `ca`.

    The fields: 0 version, 1 algorithm, 2 issuer, 3 thisUpdate, 4 nextUpdate, 5 entries, 6 extensions.
    """
    der = x509.load_pem_x509_crl(pem).public_bytes(serialization.Encoding.DER)
    return to_pem(_resign(der, ca, edit, algorithm), b"X509 CRL")


def _resign(
    der: bytes, ca: Authority, edit: Callable[[list[bytes]], list[bytes]], algorithm: hashes.HashAlgorithm
) -> bytes:
    tbs, outer, _ = children(der)
    new = tlv(0x30, b"".join(edit(children(tbs))))
    if isinstance(algorithm, hashes.SHA1):
        new = tlv(0x30, b"".join(tlv(0x30, SHA1_OID) if f == outer else f for f in children(new)))
        outer = tlv(0x30, SHA1_OID)
    signature = ca.key.sign(new, ec.ECDSA(algorithm))
    return tlv(0x30, new + outer + tlv(0x03, b"\x00" + signature))
