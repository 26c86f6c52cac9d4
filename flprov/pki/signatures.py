# SPDX-License-Identifier: Apache-2.0
"""Signatures of documents: manifests of kits, trust bundles, submissions of jobs.

ECDSA with SHA-256, DER, over the document's very bytes, so that `openssl dgst -sha256 -verify` checks it
too. The keys are the ones that TLS uses. That is safe here because what TLS 1.3 signs starts with 64
spaces (RFC 8446 section 4.4.3), which no document of ours does, and nobody signs bytes that a peer chose.
"""

from __future__ import annotations

from collections.abc import Collection, Container
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from flprov.errors import IdentityRefused, Misuse
from flprov.pki.anchors import Anchors
from flprov.pki.certificates import Certificate, public_der, read_first
from flprov.pki.identity import Identity, Kind
from flprov.pki.keys import read_private_key
from flprov.pki.verification import verify_leaf, verify_signer

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def sign(private_pem: bytes, payload: bytes) -> bytes:
    """The signature over `payload`: ECDSA, SHA-256, DER.

    Raises:
        IdentityRefused: the private key cannot be read.
        Misuse: the key is not an ECDSA key.
    """
    key = read_private_key(private_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Misuse("documents are signed with an ECDSA key, this is an RSA key")
    return key.sign(payload, _ALGORITHM)


def verify_signature(payload: bytes, signature: bytes, certificate_pem: bytes) -> None:
    """Pass if `signature` over `payload` is by the key in the certificate, whoever that is.

    Raises:
        IdentityRefused: it is not.
    """
    _verify(payload, signature, read_first(certificate_pem))


def verify_signed(
    payload: bytes,
    signature: bytes,
    chain_pem: bytes,
    anchors: Anchors,
    *,
    now: datetime,
    kinds: Collection[Kind] | None = None,
    revoked: Container[int] = (),
) -> Identity:
    """Who signed `payload`: `verify_peer` on the chain, then the signature.

    Raises:
        IdentityRefused: the chain is not acceptable or the signature does not fit.
    """
    case = verify_leaf(chain_pem, anchors, now=now, kinds=kinds, revoked=revoked)
    _verify(payload, signature, case.leaf)
    return case.identity


def verify_provisioned(
    payload: bytes, signature: bytes, signer_pem: bytes, roots: Anchors, *, now: datetime
) -> str:
    """The URI of the provisioner that signed `payload`: `verify_signer` on its chain, then the signature.

    Raises:
        IdentityRefused: no provisioner under one of these roots, or the signature does not fit.
    """
    uri = verify_signer(signer_pem, roots, now=now)
    verify_signature(payload, signature, signer_pem)
    return uri


def verify_key_matches(certificate_pem: bytes, private_pem: bytes) -> None:
    """Pass if the private key is the one whose public half the certificate holds.

    Raises:
        IdentityRefused: it is another key.
    """
    certificate = read_first(certificate_pem)
    key = read_private_key(private_pem)
    if certificate.key is None or public_der(certificate.key) != public_der(key.public_key()):
        raise IdentityRefused(f"the private key is not the key of the certificate of {certificate.claim}")


def _verify(payload: bytes, signature: bytes, certificate: Certificate) -> None:
    if not isinstance(certificate.key, ec.EllipticCurvePublicKey):
        raise IdentityRefused(f"the certificate of {certificate.claim} has no ECDSA key to check with")
    try:
        certificate.key.verify(signature, payload, _ALGORITHM)
    except InvalidSignature as error:
        raise IdentityRefused(
            f"the signature is not by {certificate.claim} over this document",
            hint="the document was changed after it was signed, or somebody else signed it",
        ) from error
