# SPDX-License-Identifier: Apache-2.0
"""The rules that a leaf certificate must satisfy, one function each. Nobody is an identity otherwise.

They run when a certificate is issued, when a kit is loaded and when a peer calls, because gRPC alone
accepts a third of the bad profiles in x509-limbo (CN fallback, weak RSA, no or any EKU, CA leaf). Each
rule raises IdentityRefused naming the field. Who signed it comes first: a stranger's certificate is a
stranger's, whatever else is wrong with it. Then comes time, which is what goes wrong most often.

`RULES` go for every leaf; `PEER_RULES` follow for servers, sites and people; `PROVISIONER_RULES` for
the certificate that signs kit manifests.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from flprov._base import dataclass
from flprov.errors import IdentityRefused
from flprov.pki.anchors import Anchor
from flprov.pki.certificates import Certificate, describe_issuer
from flprov.pki.identity import SCHEME, Identity, Kind, parse_identity, show, verify_name
from flprov.pki.keys import HASHES, verify_public_key
from flprov.pki.profiles import ISSUERS, LEAVES, PROVISIONER, Profile

_NEW_KIT = "ask the project's admin for a new kit (`flprov provision` makes it)"
_NEW_INVITE = (
    "ask the project's admin for a new invite (`flprov invite create {}` there,"
    " then `flprov join INVITE` here)"
)
_USED = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.CODE_SIGNING: "codeSigning",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "anyExtendedKeyUsage",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a rule judges: a leaf, the anchor that is said to have signed it, and the time."""

    leaf: Certificate
    anchor: Anchor
    now: datetime

    @cached_property
    def identity(self) -> Identity:
        """What the leaf's one URI spells. Raises IdentityRefused."""
        return parse_identity(self.leaf.uris[0])

    def refuse(self, why: str, hint: str | None = None) -> IdentityRefused:
        """The refusal to raise: `the certificate of <who> <why>`."""
        return IdentityRefused(f"the certificate of {self.leaf.claim} {why}", hint=hint)


def verify_version(case: Case) -> None:
    """X.509 version 3; older ones have no extensions, so no identity (RFC 5280 section 4.1.2.1)."""
    if case.leaf.version != 3:
        raise case.refuse(f"is X.509 version {case.leaf.version}, not 3")


def verify_hash(case: Case) -> None:
    """Signed over SHA-256 or better: SHA-1 collisions are bought, not found."""
    if case.leaf.hash is None or case.leaf.hash.name not in HASHES:
        name = case.leaf.hash.name if case.leaf.hash else "an unknown hash"
        raise case.refuse(f"is signed with {name}; allowed are {', '.join(HASHES)}")


def verify_issuer(case: Case) -> None:
    """Issued by the anchor: its name, and its signature over these very bytes."""
    if case.leaf.issuer != case.anchor.certificate.subject:
        raise case.refuse(
            f"names {describe_issuer(case.leaf)} as its issuer, which is not {case.anchor.name}"
        )
    try:
        case.leaf.source.verify_directly_issued_by(case.anchor.certificate.source)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError) as error:
        raise case.refuse(
            f"does not carry a valid signature of {case.anchor.name}",
            hint="it was changed after it was issued, or another CA of the same name issued it",
        ) from error


def verify_validity(case: Case) -> None:
    """Now lies within its validity and within its CA's."""
    if case.now < case.leaf.not_before:
        raise case.refuse(f"is not valid before {_moment(case.leaf.not_before)}", hint=_clock_hint(case.now))
    if case.now > case.leaf.not_after:
        raise case.refuse(f"expired on {_moment(case.leaf.not_after)}: {_ago(case)}", hint=_way_back(case))
    authority = case.anchor.certificate
    if not authority.not_before <= case.now <= authority.not_after:
        span = f"valid from {_moment(authority.not_before)} to {_moment(authority.not_after)}"
        raise case.refuse(f"is issued by {case.anchor.name}, which is {span}", hint=_clock_hint(case.now))


def _way_back(case: Case) -> str:
    """What an expired party does next. Nothing here is trusted: the identity only picks the words."""
    try:
        identity = case.identity
    except (IndexError, IdentityRefused):
        return _NEW_KIT
    is_site = identity.kind in (Kind.SITE, Kind.INVITE)
    return _NEW_INVITE.format(identity.name) if is_site else _NEW_KIT


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _clock_hint(now: datetime) -> str:
    return f"this machine's clock says {_moment(now)}; if that is right, check the clock where it was issued"


def _ago(case: Case) -> str:
    passed = case.now - case.leaf.not_after
    if passed.days >= 2:
        return f"{passed.days} days ago"
    minutes = int(passed.total_seconds() // 60)
    return f"{minutes // 60} h {minutes % 60} min ago"


def verify_serial(case: Case) -> None:
    """A positive serial number of at most 20 octets (RFC 5280 section 4.1.2.2)."""
    if not 0 < case.leaf.serial < 1 << 159:
        raise case.refuse("has a serial number that is not positive or longer than 20 octets")


def verify_key(case: Case) -> None:
    """Its own key is P-256, P-384 or RSA of 3,072 bits and more."""
    try:
        verify_public_key(case.leaf.key)
    except IdentityRefused as error:
        raise case.refuse(f"is refused: {error}", hint=error.hint) from None


def verify_not_ca(case: Case) -> None:
    """basicConstraints is there, critical, and says that it is no CA."""
    extension = case.leaf.extensions.get(ExtensionOID.BASIC_CONSTRAINTS)
    if extension is None:
        raise case.refuse("has no basicConstraints, so it does not say that it is no CA")
    if extension.value.ca:
        raise case.refuse("has the CA bit in its basicConstraints: a CA is nobody's identity")
    if not extension.critical:
        raise case.refuse("has a basicConstraints that is not critical")


def verify_critical(case: Case) -> None:
    """No critical extension that we do not act on (RFC 5280 section 4.2)."""
    for extension in case.leaf.extensions.values():
        if extension.critical and extension.oid not in _USED:
            raise case.refuse(f"has the critical extension {extension.oid.dotted_string}, which is not known")


def verify_unconstrained(case: Case) -> None:
    """No name constraints: they have no meaning in a leaf (RFC 5280 section 4.2.1.10)."""
    if ExtensionOID.NAME_CONSTRAINTS in case.leaf.extensions:
        raise case.refuse("has nameConstraints, which only a CA may have")


def verify_key_usage(case: Case) -> None:
    """keyUsage is there, critical, and says digitalSignature only."""
    extension = case.leaf.extensions.get(ExtensionOID.KEY_USAGE)
    if extension is None:
        raise case.refuse("has no keyUsage")
    if extension.value != PROVISIONER.key_usage:
        raise case.refuse("has a keyUsage other than digitalSignature alone")
    if not extension.critical:
        raise case.refuse("has a keyUsage that is not critical")


def verify_one_uri(case: Case) -> None:
    """Exactly one URI (X509-SVID section 2). A name in the subject never stands in for it."""
    if not case.leaf.uris:
        raise case.refuse("has no SPIFFE URI in its subjectAltName; the subject's CN is never used")
    if len(case.leaf.uris) > 1:
        raise case.refuse(f"has {len(case.leaf.uris)} URIs in its subjectAltName, not exactly one")
    if case.leaf.other_names:
        raise case.refuse("has subjectAltName entries that are neither a URI, a DNS name nor an IP address")


def verify_identity(case: Case) -> None:
    """The URI spells one of our kinds, in the trust domain of the CA that signed it."""
    try:
        identity = case.identity
    except IdentityRefused as error:
        raise case.refuse(f"is refused: {error}", hint=error.hint) from None
    if identity.trust_domain != case.anchor.trust_domain:
        raise case.refuse(
            f"is of the trust domain {identity.trust_domain}, "
            f"but {case.anchor.name} is of {case.anchor.trust_domain}"
        )


def verify_issuer_kind(case: Case) -> None:
    """The CA that signed it may issue this kind: the sites CA makes no person."""
    kind = case.identity.kind
    if case.anchor.kind is not ISSUERS[kind]:
        raise case.refuse(f"is issued by {case.anchor.name}, which may not issue {LEAVES[kind].what}")


def verify_peer_usage(case: Case) -> None:
    """Exactly the one extended key usage of its kind."""
    _verify_usage(case, _profile(case))


def verify_host_names(case: Case) -> None:
    """A server has DNS names or IP addresses, nobody else has."""
    profile = _profile(case)
    if profile.host_names and not case.leaf.host_names:
        raise case.refuse("has no DNS name or IP address in its subjectAltName, which a server needs")
    if case.leaf.host_names and not profile.host_names:
        found = show(case.leaf.host_names[0])
        raise case.refuse(
            f"has the host name {found} in its subjectAltName, which {profile.what} may not have"
        )


def verify_provisioner(case: Case) -> None:
    """Issued by the root, for `spiffe://<its trust domain>/provisioner/<project>`, to sign kits only."""
    if case.anchor.kind is not None:
        raise case.refuse(f"is issued by {case.anchor.name}; only the root CA issues a provisioner")
    uri, start = case.leaf.uris[0], f"{SCHEME}{case.anchor.trust_domain}/provisioner/"
    if not uri.startswith(start):
        raise case.refuse(f"is for {show(uri)}, not for a provisioner of {case.anchor.trust_domain}")
    verify_name(uri.removeprefix(start), "project")
    _verify_usage(case, PROVISIONER)
    if case.leaf.host_names:
        raise case.refuse("has host names in its subjectAltName, which a provisioner may not have")


def _verify_usage(case: Case, profile: Profile) -> None:
    extension = case.leaf.extensions.get(ExtensionOID.EXTENDED_KEY_USAGE)
    wanted = _describe_usage(profile.extended_key_usage)
    if extension is None:
        raise case.refuse(f"has no extendedKeyUsage; {profile.what} has {wanted}")
    if extension.value != profile.extended_key_usage:
        found = _describe_usage(extension.value)
        raise case.refuse(f"has the extendedKeyUsage {found}; {profile.what} has {wanted} and nothing else")


def _describe_usage(usage: x509.ExtendedKeyUsage | None) -> str:
    return ", ".join(_USAGES.get(oid, oid.dotted_string) for oid in list(usage or ())[:8])


def _profile(case: Case) -> Profile:
    return LEAVES[case.identity.kind]


Rule = Callable[[Case], None]

RULES: tuple[Rule, ...] = (
    verify_version,
    verify_hash,
    verify_issuer,
    verify_validity,
    verify_serial,
    verify_key,
    verify_not_ca,
    verify_critical,
    verify_unconstrained,
    verify_key_usage,
    verify_one_uri,
)

PEER_RULES: tuple[Rule, ...] = (verify_identity, verify_issuer_kind, verify_peer_usage, verify_host_names)

PROVISIONER_RULES: tuple[Rule, ...] = (verify_provisioner,)

# Who is welcome where nobody said whom they expect. An invite is never: it opens one door, which asks for it.
PARTIES = frozenset({Kind.SERVER, Kind.SITE, Kind.PERSON})


def verify_kinds(case: Case, kinds: frozenset[Kind]) -> None:
    """It is one of the kinds that the caller of `verify_peer` asked for."""
    kind = case.identity.kind
    if kind not in kinds:
        wanted = " or ".join(LEAVES[kind].what for kind in Kind if kind in kinds)
        raise case.refuse(f"is {LEAVES[kind].what}'s, where {wanted} is expected")


def verify_not_revoked(case: Case, revoked: Container[int]) -> None:
    """Its serial number is not among those that were revoked. The last of the rules."""
    if case.leaf.serial in revoked:
        raise case.refuse("was revoked", hint="ask the project's admin why, and for the way back")
