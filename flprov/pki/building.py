# SPDX-License-Identifier: Apache-2.0
"""Certificates put together from a profile, a name, a key and a time. Signed by whoever has the key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from flprov.errors import Misuse
from flprov.pki.keys import PrivateKey, PublicKey
from flprov.pki.profiles import BACKDATED, Profile

_MOST_DAYS = 36_525.0  # a century


def build(
    profile: Profile,
    subject: x509.Name,
    public: PublicKey,
    names: Sequence[str | x509.GeneralName],
    now: datetime,
    end: datetime,
) -> x509.CertificateBuilder:
    """Everything in a certificate but its issuer."""
    general = [x509.UniformResourceIdentifier(name) if isinstance(name, str) else name for name in names]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - BACKDATED).replace(microsecond=0))
        .not_valid_after(end.replace(microsecond=0))
    )
    builder = profile.extend(builder)
    builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)


def sign_certificate(builder: x509.CertificateBuilder, key: PrivateKey) -> bytes:
    """The DER of the finished certificate: ECDSA (or RSA, if such is the CA) over SHA-256."""
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_days(days: float) -> timedelta:
    """How long a certificate is to be valid. Raises Misuse if none can be."""
    if not 0 < days <= _MOST_DAYS:
        raise Misuse(f"a certificate cannot be valid for {days} days", hint="use more than 0, at most 36525")
    return timedelta(days=days)


def name_ca(project: str, unit: str, public: PublicKey) -> x509.Name:
    """A subject that no other CA has: two keys never share a name, also after a rotation."""
    key_id = x509.SubjectKeyIdentifier.from_public_key(public).digest.hex()[:8]
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, project),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{unit} CA {key_id}"),
        ]
    )


def name_leaf(name: str) -> x509.Name:
    """A subject for humans; nothing reads it."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
