# SPDX-License-Identifier: Apache-2.0
"""A leaf certificate's facts in one value: what lists, registries and revocations go by."""

from __future__ import annotations

from datetime import datetime

from flprov._base import dataclass
from flprov.errors import IdentityRefused
from flprov.pki.certificates import read_first, spell_fingerprint
from flprov.pki.identity import Identity, parse_identity


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One leaf certificate, described. Nothing in it was verified."""

    identity: Identity
    serial: int  # what a CRL names
    issued_at: datetime  # in whole seconds: the second in which it was made
    not_before: datetime
    not_after: datetime
    fingerprint: str  # as `openssl x509 -fingerprint -sha256` spells it; for people to compare
    issuer_key_id: str  # authorityKeyIdentifier in hex: which CA's key signed it


def describe_leaf(pem: bytes) -> Leaf:
    """The facts of the first certificate in `pem`, read once. Nothing is verified: not for decisions.

    Raises:
        IdentityRefused: it cannot be read, carries no single identity, or names no issuer's key.
    """
    certificate = read_first(pem)
    if len(certificate.uris) != 1:
        raise IdentityRefused(f"the certificate has {len(certificate.uris)} SPIFFE URIs, not one")
    if not certificate.issuer_key_id:
        raise IdentityRefused(f"the certificate of {certificate.claim} has no authorityKeyIdentifier")
    return Leaf(
        identity=parse_identity(certificate.uris[0]),
        serial=certificate.serial,
        issued_at=certificate.issued_at,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        fingerprint=spell_fingerprint(certificate.der),
        issuer_key_id=certificate.issuer_key_id.hex(),
    )
