# SPDX-License-Identifier: Apache-2.0
"""What every certificate of ours says, extension by extension; used to issue and to verify.

| profile      | signed by  | constraints   | keyUsage             | extKeyUsage | subjectAltName            |
|--------------|------------|---------------|----------------------|-------------|---------------------------|
| root         | itself     | CA, pathlen 1 | keyCertSign, cRLSign | -           | spiffe://td               |
| servers CA   | root       | CA, pathlen 0 | keyCertSign, cRLSign | serverAuth  | spiffe://td               |
| sites CA     | root       | CA, pathlen 0 | keyCertSign, cRLSign | clientAuth  | spiffe://td               |
| people CA    | root       | CA, pathlen 0 | keyCertSign, cRLSign | clientAuth  | spiffe://td               |
| server       | servers CA | not a CA      | digitalSignature     | serverAuth  | its URI, its host names   |
| site, invite | sites CA   | not a CA      | digitalSignature     | clientAuth  | its URI                   |
| person       | people CA  | not a CA      | digitalSignature     | clientAuth  | its URI                   |
| provisioner  | root       | not a CA      | digitalSignature     | codeSigning | spiffe://td/provisioner/p |

All: version 3, random serial of 159 bits (RFC 5280 section 4.1.2.2 allows 20 octets), ECDSA with
SHA-256, subject and authority key identifiers. basicConstraints and keyUsage are critical; the others
are not. No name constraints: support for URI constraints is uneven, and the verifier compares trust
domains itself.

The subject is for humans. One part of it is read, and only in a CA certificate that is already trusted:
its organizational unit (`servers`, `sites`, `people`, `root`) says which CA it is, and `ISSUERS` what
that may issue.

X509-SVID section 4.4 wants serverAuth and clientAuth together. We give one of them: a site's
certificate must not work as a server's, whatever verifies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from flprov._base import dataclass
from flprov.pki.identity import Kind

# Clocks differ: a kit made on a laptop that runs ahead must work at once at a hospital.
BACKDATED = timedelta(minutes=5)


def _key_usage(*, digital_signature: bool = False, authority: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The extensions that are the same in every certificate of one kind."""

    what: str  # in messages: "a server"
    basic_constraints: x509.BasicConstraints
    key_usage: x509.KeyUsage
    extended_key_usage: x509.ExtendedKeyUsage | None
    host_names: bool = False  # DNS names and IP addresses beside the URI: needed, or not allowed

    def extend(self, builder: x509.CertificateBuilder) -> x509.CertificateBuilder:
        """`builder` with the constant extensions added."""
        builder = builder.add_extension(self.basic_constraints, critical=True)
        builder = builder.add_extension(self.key_usage, critical=True)
        if self.extended_key_usage is not None:
            builder = builder.add_extension(self.extended_key_usage, critical=False)
        return builder


_LEAF = x509.BasicConstraints(ca=False, path_length=None)
_ISSUING = x509.BasicConstraints(ca=True, path_length=0)
_SIGNS = _key_usage(digital_signature=True)
_CERTIFIES = _key_usage(authority=True)
_SERVER_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
_CLIENT_AUTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
_CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])

ROOT = Profile(
    what="a root CA",
    basic_constraints=x509.BasicConstraints(ca=True, path_length=1),
    key_usage=_CERTIFIES,
    extended_key_usage=None,
)

SERVERS_CA = Profile(
    what="a servers CA",
    basic_constraints=_ISSUING,
    key_usage=_CERTIFIES,
    extended_key_usage=_SERVER_AUTH,
)

SITES_CA = Profile(
    what="a sites CA",
    basic_constraints=_ISSUING,
    key_usage=_CERTIFIES,
    extended_key_usage=_CLIENT_AUTH,
)

PEOPLE_CA = Profile(
    what="a people CA",
    basic_constraints=_ISSUING,
    key_usage=_CERTIFIES,
    extended_key_usage=_CLIENT_AUTH,
)

SERVER = Profile(
    what="a server",
    basic_constraints=_LEAF,
    key_usage=_SIGNS,
    extended_key_usage=_SERVER_AUTH,
    host_names=True,
)

SITE = Profile(
    what="a site",
    basic_constraints=_LEAF,
    key_usage=_SIGNS,
    extended_key_usage=_CLIENT_AUTH,
)

PERSON = Profile(
    what="a person",
    basic_constraints=_LEAF,
    key_usage=_SIGNS,
    extended_key_usage=_CLIENT_AUTH,
)

INVITE = Profile(
    what="an invite",
    basic_constraints=_LEAF,
    key_usage=_SIGNS,
    extended_key_usage=_CLIENT_AUTH,
)

PROVISIONER = Profile(
    what="a provisioner",
    basic_constraints=_LEAF,
    key_usage=_SIGNS,
    extended_key_usage=_CODE_SIGNING,
)

# The organizational unit in a CA's subject, and the kind of identity that it is named after.
ROOT_UNIT = "root"
UNITS: Mapping[Kind, str] = {Kind.SERVER: "servers", Kind.SITE: "sites", Kind.PERSON: "people"}

ISSUING: Mapping[Kind, Profile] = {Kind.SERVER: SERVERS_CA, Kind.SITE: SITES_CA, Kind.PERSON: PEOPLE_CA}
LEAVES: Mapping[Kind, Profile] = {
    Kind.SERVER: SERVER,
    Kind.SITE: SITE,
    Kind.PERSON: PERSON,
    Kind.INVITE: INVITE,
}

# Which CA may issue which kind. There is no CA of invites: whoever may let a site in may invite it.
ISSUERS: Mapping[Kind, Kind] = {
    Kind.SERVER: Kind.SERVER,
    Kind.SITE: Kind.SITE,
    Kind.PERSON: Kind.PERSON,
    Kind.INVITE: Kind.SITE,
}
