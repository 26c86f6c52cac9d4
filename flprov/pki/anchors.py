# SPDX-License-Identifier: Apache-2.0
"""Trust anchors: the issuing CAs that one side of a connection believes.

The anchor is the issuing CA itself, never the root above it. A server whose anchors held the root would
take any issuing CA that a peer sends along (gRPC does), and *servers*, *sites* and *people* would no
longer be apart. So a bundle holds issuing CAs, or the root for checking a provisioner, never both.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID, NameOID

from flprov._base import dataclass
from flprov.errors import IdentityRefused
from flprov.pki.certificates import Certificate, read_certificate, split_pem, subject_text
from flprov.pki.identity import SCHEME, Kind, show, verify_trust_domain
from flprov.pki.keys import HASHES, verify_public_key
from flprov.pki.profiles import ISSUERS, ISSUING, ROOT, ROOT_UNIT, UNITS, Profile

_MOST_ANCHORS = 64
_KINDS = {unit: kind for kind, unit in UNITS.items()}


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """One CA certificate that is trusted because it was given to us."""

    certificate: Certificate
    kind: Kind | None  # which issuing CA it is (`ISSUERS` says what that may issue); None is the root
    trust_domain: str
    key_id: bytes

    @property
    def name(self) -> str:
        """What messages call it: `the sites CA`."""
        return f"the {UNITS[self.kind]} CA" if self.kind else "the root CA"


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """The CAs that may vouch for a peer. Several of one kind during a rotation."""

    members: tuple[Anchor, ...]

    @property
    def pem(self) -> bytes:
        """The bundle, for the TLS layer."""
        return b"".join(anchor.certificate.pem for anchor in self.members)

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of identity that these CAs may issue."""
        found = {anchor.kind for anchor in self.members}
        return frozenset(kind for kind, issuer in ISSUERS.items() if issuer in found)

    @property
    def names(self) -> str:
        """For messages: `the sites CA or the people CA`."""
        return " or ".join(dict.fromkeys(anchor.name for anchor in self.members))


def load_anchors(pem: bytes) -> Anchors:
    """The anchors in a PEM bundle, each checked against its profile. Validity is checked at use.

    Raises:
        IdentityRefused: the bundle is empty, mixes the root with issuing CAs, or holds something that
            is not one of our CAs.
    """
    certificates = [read_certificate(der) for der in dict.fromkeys(split_pem(pem, most=_MOST_ANCHORS))]
    return _gather([read_anchor(certificate) for certificate in certificates])


def join_anchors(*parts: Anchors) -> Anchors:
    """All of them together: a server's are its sites' and its people's."""
    members = {anchor.certificate.der: anchor for part in parts for anchor in part.members}
    return _gather(list(members.values()))


def _gather(members: Sequence[Anchor]) -> Anchors:
    roots = [anchor for anchor in members if anchor.kind is None]
    if roots and len(roots) != len(members):
        raise IdentityRefused(
            "the trust anchors hold the root CA beside issuing CAs",
            hint="take the root out: with it every issuing CA would be believed",
        )
    return Anchors(members=tuple(members))


def read_anchor(certificate: Certificate) -> Anchor:
    """The anchor that a CA certificate is, after checking it against its profile.

    Raises:
        IdentityRefused: it is no CA of ours, or breaks its profile.
    """
    unit = subject_text(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if unit != ROOT_UNIT and unit not in _KINDS:
        raise _refuse(certificate, f"its organizational unit is {show(unit)}, not that of a CA of ours")
    kind = _KINDS.get(unit)
    profile = ISSUING[kind] if kind else ROOT
    _verify_form(certificate, profile)
    _verify_key(certificate)
    if kind is None:
        _verify_self_signed(certificate)
    return Anchor(
        certificate=certificate,
        kind=kind,
        trust_domain=_read_trust_domain(certificate),
        key_id=_read_key_id(certificate),
    )


def _refuse(certificate: Certificate, why: str, hint: str | None = None) -> IdentityRefused:
    name = show(subject_text(certificate.subject) or f"serial {certificate.serial:x}")
    return IdentityRefused(f"{name} cannot be a trust anchor: {why}", hint=hint)


def _verify_form(certificate: Certificate, profile: Profile) -> None:
    if certificate.version != 3:
        raise _refuse(certificate, f"its version is {certificate.version}, not 3")
    found = certificate.extensions
    for oid, value, name in (
        (ExtensionOID.BASIC_CONSTRAINTS, profile.basic_constraints, "basicConstraints"),
        (ExtensionOID.KEY_USAGE, profile.key_usage, "keyUsage"),
        (ExtensionOID.EXTENDED_KEY_USAGE, profile.extended_key_usage, "extendedKeyUsage"),
    ):
        extension = found.get(oid)
        if (extension.value if extension else None) != value:
            raise _refuse(certificate, f"its {name} is not that of {profile.what}")
    known = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)
    if not all(found[oid].critical for oid in known):
        raise _refuse(certificate, "its basicConstraints or keyUsage is not critical")
    for extension in found.values():
        if extension.critical and extension.oid not in known:
            raise _refuse(certificate, f"its critical extension {extension.oid.dotted_string} is not known")


def _verify_key(certificate: Certificate) -> None:
    if certificate.hash is None or certificate.hash.name not in HASHES:
        raise _refuse(certificate, "it is signed with a hash that is not used here")
    try:
        verify_public_key(certificate.key)
    except IdentityRefused as error:
        raise _refuse(certificate, str(error), error.hint) from None


def _verify_self_signed(certificate: Certificate) -> None:
    try:
        certificate.source.verify_directly_issued_by(certificate.source)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _refuse(certificate, "it is not signed by itself, as a root is") from error


def _read_trust_domain(certificate: Certificate) -> str:
    if len(certificate.uris) != 1 or certificate.host_names or certificate.other_names:
        raise _refuse(certificate, "its subjectAltName is not exactly one trust domain")
    uri = certificate.uris[0]
    if not uri.startswith(SCHEME):
        raise _refuse(certificate, f"its URI {show(uri)} is not a trust domain")
    return verify_trust_domain(uri.removeprefix(SCHEME))


def _read_key_id(certificate: Certificate) -> bytes:
    if not certificate.key_id:
        raise _refuse(certificate, "it has no subjectKeyIdentifier")
    return certificate.key_id
