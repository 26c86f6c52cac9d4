# SPDX-License-Identifier: Apache-2.0
"""Certificates and signatures: who is who. The only door to `cryptography`.

Start reading at `identity.py` (the names), `profiles.py` (what certificates say) and `rules.py` (what
they must say). Who reads certificates needs less than who makes them: the latter is imported when it is first
asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flprov._base import lazy_names
from flprov.pki.anchors import Anchors, join_anchors, load_anchors
from flprov.pki.certificates import (
    authority_key_id,
    certificate_identity,
    fingerprint,
    host_names,
    issued_at,
    issuer_name,
    not_after,
    not_before,
    serial_number,
)
from flprov.pki.identity import Identity, Kind, Role, parse_identity
from flprov.pki.keys import create_key, decrypt_key, encrypt_key, is_encrypted, public_key_pem
from flprov.pki.leaf import Leaf, describe_leaf
from flprov.pki.signatures import (
    sign,
    verify_key_matches,
    verify_provisioned,
    verify_signature,
    verify_signed,
)
from flprov.pki.verification import verify_peer, verify_signer

if TYPE_CHECKING:
    from flprov.pki.authority import Authority, create_issuing, create_root, load_authority
    from flprov.pki.compact import (
        join_certificates,
        key_fingerprint,
        pack_key,
        split_certificates,
        unpack_key,
    )
    from flprov.pki.issuing import Credential, create_signer, issue_identity
    from flprov.pki.requests import create_request, verify_request
    from flprov.pki.revocation import CRL, Reason, Revoked, create_crl, read_crl
    from flprov.pki.sealing import (
        EXCHANGE_KEY_BYTES,
        create_exchange_key,
        derive_secret,
        exchange_public_key,
        lock,
        open_sealed,
        seal,
        unlock,
    )

__all__ = [
    "CRL",
    "EXCHANGE_KEY_BYTES",
    "Anchors",
    "Authority",
    "Credential",
    "Identity",
    "Kind",
    "Leaf",
    "Reason",
    "Revoked",
    "Role",
    "authority_key_id",
    "certificate_identity",
    "create_crl",
    "create_exchange_key",
    "create_issuing",
    "create_key",
    "create_request",
    "create_root",
    "create_signer",
    "decrypt_key",
    "derive_secret",
    "describe_leaf",
    "encrypt_key",
    "exchange_public_key",
    "fingerprint",
    "host_names",
    "is_encrypted",
    "issue_identity",
    "issued_at",
    "issuer_name",
    "join_anchors",
    "join_certificates",
    "key_fingerprint",
    "load_anchors",
    "load_authority",
    "lock",
    "not_after",
    "not_before",
    "open_sealed",
    "pack_key",
    "parse_identity",
    "public_key_pem",
    "read_crl",
    "seal",
    "serial_number",
    "sign",
    "split_certificates",
    "unlock",
    "unpack_key",
    "verify_key_matches",
    "verify_peer",
    "verify_provisioned",
    "verify_request",
    "verify_signature",
    "verify_signed",
    "verify_signer",
]

_LATE = {
    "Authority": "authority",
    "CRL": "revocation",
    "Credential": "issuing",
    "EXCHANGE_KEY_BYTES": "sealing",
    "Reason": "revocation",
    "Revoked": "revocation",
    "create_crl": "revocation",
    "create_exchange_key": "sealing",
    "create_issuing": "authority",
    "create_request": "requests",
    "create_root": "authority",
    "create_signer": "issuing",
    "derive_secret": "sealing",
    "exchange_public_key": "sealing",
    "issue_identity": "issuing",
    "join_certificates": "compact",
    "key_fingerprint": "compact",
    "load_authority": "authority",
    "lock": "sealing",
    "open_sealed": "sealing",
    "pack_key": "compact",
    "read_crl": "revocation",
    "seal": "sealing",
    "split_certificates": "compact",
    "unlock": "sealing",
    "unpack_key": "compact",
    "verify_request": "requests",
}

__getattr__ = lazy_names(__name__, _LATE)
