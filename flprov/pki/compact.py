# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys in their shortest form, for an invite that is one line; and how keys are compared."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from flprov.errors import IdentityRefused, Misuse
from flprov.pki.certificates import read_certificate, split_pem, write_pem
from flprov.pki.keys import read_private_key, read_public_key, write_private_key

_SCALAR = 32  # bytes of a P-256 private key
_MOST = 64


def split_certificates(pem: bytes) -> tuple[bytes, ...]:
    """The DER of each certificate in a PEM text.

    Raises:
        IdentityRefused: it holds none, or anything beside them.
    """
    return tuple(split_pem(pem, most=_MOST))


def join_certificates(*ders: bytes) -> bytes:
    """The PEM text of these certificates, each of which must be one.

    Raises:
        IdentityRefused: one is not a well-formed certificate.
    """
    return b"".join(write_pem(read_certificate(der).der) for der in ders)


def pack_key(private_pem: bytes) -> bytes:
    """The scalar of a P-256 private key: 32 bytes, and as secret as the key.

    Raises:
        IdentityRefused: it is no private key.
        Misuse: it is another kind of key.
    """
    key = read_private_key(private_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Misuse("only a P-256 key has a short form")
    return key.private_numbers().private_value.to_bytes(_SCALAR, "big")


def unpack_key(scalar: bytes) -> bytes:
    """The private key with this scalar, as PEM.

    Raises:
        IdentityRefused: there is no such key.
    """
    if len(scalar) != _SCALAR:
        raise IdentityRefused(f"a P-256 key has {_SCALAR} bytes, this one has {len(scalar)}")
    try:
        key = ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())
    except ValueError as error:
        raise IdentityRefused("the private key is no P-256 key") from error
    return write_private_key(key)


def key_fingerprint(public_pem: bytes) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER), spelled as OpenSSL spells fingerprints.

    `openssl pkey -pubin -outform DER | openssl sha256` gives the same digits.

    Raises:
        IdentityRefused: it is no public key, or too weak.
    """
    der = read_public_key(public_pem).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashlib.sha256(der).hexdigest().upper()
    return "SHA256:" + ":".join(digest[start : start + 2] for start in range(0, len(digest), 2))
