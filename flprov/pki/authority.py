# SPDX-License-Identifier: Apache-2.0
"""Certificate authorities: made and loaded.

The root signs three issuing CAs (*servers*, *sites*, *people*) and the provisioner's certificate, and
nothing else. Each issuing CA signs one kind of identity.
"""

from __future__ import annotations

from dataclasses import field
from datetime import datetime
from functools import cached_property

from cryptography import x509
from cryptography.x509.oid import NameOID

from flprov._base import dataclass, to_iso
from flprov.errors import IdentityRefused
from flprov.pki.anchors import Anchor, Anchors, read_anchor
from flprov.pki.building import build, name_ca, read_days, sign_certificate
from flprov.pki.certificates import public_der, read_certificate, read_first, subject_text
from flprov.pki.identity import SCHEME, Kind, verify_name, verify_trust_domain
from flprov.pki.keys import PrivateKey, new_key, read_private_key, write_private_key
from flprov.pki.profiles import ISSUERS, ISSUING, ROOT, ROOT_UNIT, UNITS


@dataclass(frozen=True, kw_only=True)
class Authority:
    """One CA: its certificate and its private key. `repr` shows no key."""

    anchor: Anchor
    key: PrivateKey = field(repr=False)

    @property
    def kind(self) -> Kind | None:
        """Which issuing CA it is, by the kind that it is named after; None is the root."""
        return self.anchor.kind

    @property
    def project(self) -> str:
        """The project that it was made for."""
        return subject_text(self.anchor.certificate.subject, NameOID.ORGANIZATION_NAME)

    @property
    def trust_domain(self) -> str:
        """The trust domain of everything that it issues."""
        return self.anchor.trust_domain

    @property
    def not_after(self) -> datetime:
        """The last moment at which it can vouch for anybody."""
        return self.anchor.certificate.not_after

    @property
    def certificate_pem(self) -> bytes:
        """Its certificate: for an issuing CA, the trust anchor."""
        return self.anchor.certificate.pem

    @property
    def chain_pem(self) -> bytes:
        """What goes after a leaf: its certificate (nothing stands between it and the root)."""
        return self.certificate_pem

    @property
    def anchors(self) -> Anchors:
        """Itself as the only trust anchor."""
        return Anchors(members=(self.anchor,))

    def private_pem(self, passphrase: bytes | None = None) -> bytes:
        """The private key as PKCS#8 PEM, encrypted if there is a passphrase."""
        return write_private_key(self.key, passphrase)

    @cached_property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """What it writes into the certificates that it issues, to say which key signed them."""
        return x509.AuthorityKeyIdentifier(self.anchor.key_id, None, None)

    def sign(self, builder: x509.CertificateBuilder) -> bytes:
        """The certificate that `builder` describes, issued by this CA; DER."""
        builder = builder.issuer_name(self.anchor.certificate.subject)
        return sign_certificate(builder.add_extension(self.key_identifier, critical=False), self.key)

    def end(self, days: float, now: datetime) -> datetime:
        """The last moment of what it issues now for `days`: nothing outlives the CA behind it.

        Raises:
            IdentityRefused: the CA itself has expired.
            Misuse: `days` is not a time that a certificate can last.
        """
        if now >= self.not_after:
            raise IdentityRefused(
                f"{self.anchor.name} expired on {to_iso(self.not_after)} and can issue nothing more",
                hint="a new project with a new CA has to be provisioned",
            )
        return min(now + read_days(days), self.not_after)


def create_root(*, project: str, trust_domain: str, days: int, now: datetime) -> Authority:
    """A new, self-signed root.

    Raises:
        IdentityRefused: project or trust domain is not a name.
    """
    verify_name(project, "project")
    verify_trust_domain(trust_domain)
    key = new_key()
    subject = name_ca(project, ROOT_UNIT, key.public_key())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = build(ROOT, subject, key.public_key(), [SCHEME + trust_domain], now, now + read_days(days))
    builder = builder.issuer_name(subject).add_extension(identifier, critical=False)
    return _found(sign_certificate(builder, key), key)


def create_issuing(root: Authority, *, kind: Kind, days: int, now: datetime) -> Authority:
    """A new issuing CA for one kind of identity, signed by the root. It ends no later than the root.

    Raises:
        IdentityRefused: `root` is not a root, or there is no CA of this kind.
    """
    if kind not in ISSUING:
        raise IdentityRefused(
            f"there is no CA of its own for {kind.value}s: the {UNITS[ISSUERS[kind]]} CA issues them"
        )
    if root.kind is not None:
        raise IdentityRefused(f"{root.anchor.name} cannot make another CA; only the root can")
    key = new_key()
    subject = name_ca(root.project, UNITS[kind], key.public_key())
    end = root.end(days, now)
    builder = build(ISSUING[kind], subject, key.public_key(), [SCHEME + root.trust_domain], now, end)
    return _found(root.sign(builder), key)


def load_authority(certificate_pem: bytes, private_pem: bytes, passphrase: bytes | None = None) -> Authority:
    """The CA that a certificate and its key make.

    Raises:
        Misuse: the passphrase is wrong, missing, or not needed.
        IdentityRefused: the certificate is no CA of ours, or the key is not its key.
    """
    return _found(read_first(certificate_pem).der, read_private_key(private_pem, passphrase))


def _found(der: bytes, key: PrivateKey) -> Authority:
    anchor = read_anchor(read_certificate(der))
    if anchor.certificate.key is None or public_der(anchor.certificate.key) != public_der(key.public_key()):
        raise IdentityRefused(f"the private key is not the key of {anchor.name}")
    return Authority(anchor=anchor, key=key)
