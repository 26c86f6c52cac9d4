# SPDX-License-Identifier: Apache-2.0
"""A party's certificate and key as provisioning holds them: found in a kit, or just issued."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov.errors import FlprovError
from flprov.kits.manifest import CERTIFICATE, KEY
from flprov.kits.party import Party
from flprov.kits.reading import Unreadable, read_stored
from flprov.kits.record import IssuedCertificate
from flprov.pki import (
    Anchors,
    decrypt_key,
    describe_leaf,
    is_encrypted,
    verify_key_matches,
    verify_peer,
)

_LARGEST_PEM = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Held:
    """A certificate with its chain, and the key as it lies in the kit: in clear, or encrypted."""

    chain_pem: bytes
    private_pem: bytes = field(repr=False)
    certificate: IssuedCertificate


def describe_certificate(chain_pem: bytes) -> IssuedCertificate:
    """What the record keeps of the first certificate in a chain."""
    leaf = describe_leaf(chain_pem)
    return IssuedCertificate(
        fingerprint=leaf.fingerprint,
        not_before=leaf.not_before,
        not_after=leaf.not_after,
        serial=f"{leaf.serial:x}",
        issuer=leaf.issuer_key_id,
        issued_at=leaf.issued_at,
    )


def rescue(
    folder: Path,
    party: Party,
    known: tuple[IssuedCertificate, ...],
    *,
    anchors: Anchors,
    passphrase: bytes | None,
    now: datetime,
) -> Held | None:
    """Certificate and key from a kit that is damaged, or that a run made which then died; None if unfit.

    Args:
        known: the certificates that the record has of this party.
        passphrase: opens a key that is encrypted; one that cannot be opened is not rescued.
    """
    try:
        chain, key = (read_stored(folder / name, limit=_LARGEST_PEM).data for name in (CERTIFICATE, KEY))
        identity = verify_peer(chain, anchors, now=now)
        clear = decrypt_key(key, passphrase) if passphrase and is_encrypted(key) else key
        verify_key_matches(chain, clear)
    except (Unreadable, FlprovError):
        return None
    certificate = describe_certificate(chain)
    # Host names are not read back from a certificate; only the record says for which it was made.
    names_are_known = not party.names or certificate.fingerprint in {one.fingerprint for one in known}
    if identity != party.identity or not names_are_known:
        return None
    return Held(chain_pem=chain, private_pem=key, certificate=certificate)
