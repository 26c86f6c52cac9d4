# SPDX-License-Identifier: Apache-2.0
"""The trust bundle: whom to believe from now on, signed by the provisioner, newer than the kit that holds it.

A kit never changes, and its anchors are those of the day it was made. When a CA is rotated or a person
is revoked, the provisioner signs a bundle with the next version number. It travels through the server,
which can withhold it but not change it: whoever receives one verifies the signature against a root that
it holds already, and never goes back to an older version.

One file, `trust.json`: the document's exact bytes, the signature over them, the certificate that made it.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from flprov._base import canonical_json, dataclass, from_document, parse_json
from flprov.errors import FlprovError, IdentityRefused, Misuse
from flprov.pki import (
    Anchors,
    Kind,
    authority_key_id,
    load_anchors,
    sign,
    verify_provisioned,
)

if TYPE_CHECKING:
    from flprov.pki import CRL, Credential

FORMAT = 1
# Bytes. It must fit into one message (4 MiB); a people CRL of 60,000 entries has 3 MB.
LARGEST = (4 << 20) - (64 << 10)
_CRL = "-----BEGIN X509 CRL-----"


class Phase(enum.Enum):
    """How far a rotation of the CAs has come."""

    STEADY = "steady"  # there is none: one CA of each kind
    PREPARED = "prepared"  # new CAs are believed beside the old ones, which still issue
    ACTIVATED = "activated"  # the new ones issue; the old ones are still believed


@dataclass(frozen=True, kw_only=True)
class TrustDocument:
    """What `trust.json` says. Certificates are PEM texts."""

    format: int
    project: str
    project_id: str
    trust_domain: str
    version: int  # from 1; a higher one replaces a lower one
    made_at: datetime
    phase: str  # of a rotation: steady | prepared | activated
    roots: tuple[str, ...]
    servers: tuple[str, ...]  # issuing CAs, the one that issues now first
    sites: tuple[str, ...]
    people: tuple[str, ...]
    people_crl: str = ""  # X.509 CRLs, PEM, one of each people CA that has revoked somebody


@dataclass(frozen=True, kw_only=True)
class SignedTrust:
    """A bundle as it travels: nothing in it is believed yet."""

    document: bytes
    signature: bytes
    signer: bytes  # the provisioner's certificate, PEM

    @property
    def claimed_version(self) -> int:
        """What it says its number is; 0 if it says none. Nobody has verified that."""
        try:
            found = parse_json(self.document)["version"]
        except (ValueError, KeyError, TypeError):
            return 0
        return found if isinstance(found, int) else 0

    def encode(self) -> bytes:
        """The bytes of `trust.json`."""
        return canonical_json(
            {
                "document": self.document.decode(),
                "signature": base64.b64encode(self.signature).decode(),
                "signer": self.signer.decode(),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Trust:
    """A bundle that was verified."""

    says: TrustDocument
    signed: SignedTrust = field(repr=False)
    anchors: Mapping[str, Anchors] = field(repr=False)  # "root", "servers", "sites", "people"

    @property
    def version(self) -> int:
        """Its number; higher is newer."""
        return self.says.version

    @cached_property
    def revoked_people(self) -> frozenset[int]:
        """Serial numbers of people's certificates that nobody may accept any more."""
        return frozenset(serial for crl in self.people_crls for serial in crl.revoked)

    @property
    def people_crls(self) -> tuple[CRL, ...]:
        """The lists that it carries, read: one of each people CA that has revoked somebody."""
        from flprov.pki import read_crl  # late: who holds no bundle does without

        people = self.anchors["people"]
        return tuple(read_crl(text.encode(), people) for text in split_lists(self.says.people_crl))

    def active(self, kind: Kind) -> str:
        """The key id of the CA that issues this kind now; the first of its anchors."""
        texts = {Kind.SERVER: self.says.servers, Kind.PERSON: self.says.people}.get(kind, self.says.sites)
        return authority_key_id(texts[0].encode())


def split_lists(people_crl: str) -> list[str]:
    """The revocation lists in `TrustDocument.people_crl`, each for itself."""
    return [_CRL + rest for rest in people_crl.split(_CRL)[1:]]


def sign_trust(document: TrustDocument, signer: Credential) -> SignedTrust:
    """The bundle, signed with a provisioner's certificate.

    Raises:
        Misuse: it is larger than anybody reads.
    """
    raw = canonical_json(document)
    if len(raw) > LARGEST:
        raise Misuse(
            f"the list of people who were revoked has grown so long that a trust bundle has {len(raw)} bytes;"
            f" at most {LARGEST} travel",
            hint="let people's certificates end sooner: validity.person_days; or rotate the CA",
        )
    signature = sign(signer.private_pem, raw)
    return SignedTrust(document=raw, signature=signature, signer=signer.certificate_pem)


def decode_trust(data: bytes) -> SignedTrust:
    """The bundle in the bytes of a `trust.json`; not verified.

    Raises:
        IdentityRefused: it is none.
    """
    try:
        found = parse_json(data)
        return SignedTrust(
            document=found["document"].encode(),
            signature=base64.b64decode(found["signature"], validate=True),
            signer=found["signer"].encode(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise IdentityRefused("the trust bundle cannot be read: it is not a trust.json") from error


def verify_trust(signed: SignedTrust, roots: Anchors, *, project_id: str, now: datetime) -> Trust:
    """The bundle, if a provisioner under one of `roots` signed it for this project.

    Raises:
        IdentityRefused: saying what is wrong with it.
    """
    if len(signed.document) > LARGEST:
        raise IdentityRefused(f"a trust bundle has {len(signed.document)} bytes; at most {LARGEST} are read")
    uri = verify_provisioned(signed.document, signed.signature, signed.signer, roots, now=now)
    try:
        says = from_document(TrustDocument, parse_json(signed.document))
    except ValueError as error:
        raise IdentityRefused(f"the trust bundle cannot be read: {error}") from error
    if says.format != FORMAT:
        raise IdentityRefused(
            f"the trust bundle has format {says.format}, and this flprov reads format {FORMAT}",
            hint="install the version of flprov that your project uses",
        )
    if says.version < 1:
        raise IdentityRefused(f"the trust bundle has version {says.version}, and the first one is 1")
    if says.project_id != project_id or not uri.endswith(f"/provisioner/{says.project}"):
        raise IdentityRefused(f"the trust bundle is of project {says.project}, not of this one")
    trust = Trust(says=says, signed=signed, anchors=_read_anchors(says))
    try:
        _ = trust.revoked_people
    except FlprovError as error:
        raise IdentityRefused(f"the trust bundle's people_crl is refused: {error}") from error
    return trust


def _read_anchors(says: TrustDocument) -> dict[str, Anchors]:
    parts: Mapping[str, tuple[Sequence[str], Kind | None]] = {
        "root": (says.roots, None),
        "servers": (says.servers, Kind.SERVER),
        "sites": (says.sites, Kind.SITE),
        "people": (says.people, Kind.PERSON),
    }
    found = {}
    for name, (texts, kind) in parts.items():
        try:
            anchors = load_anchors("".join(texts).encode())
        except IdentityRefused as error:
            raise IdentityRefused(f"the trust bundle is refused for its {name}: {error}") from error
        if any(
            anchor.kind is not kind or anchor.trust_domain != says.trust_domain for anchor in anchors.members
        ):
            raise IdentityRefused(
                f"the trust bundle calls something {name} that is not such a CA of this project"
            )
        found[name] = anchors
    return found
