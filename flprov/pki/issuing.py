# SPDX-License-Identifier: Apache-2.0
"""Credentials for servers, sites, people, invites and the provisioner.

Whatever is issued passes every rule before anyone gets it, so what leaves here is what the other side
accepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flprov.errors import IdentityRefused
from flprov.pki.authority import Authority
from flprov.pki.building import build, name_leaf
from flprov.pki.certificates import read_certificate
from flprov.pki.hosts import read_hosts
from flprov.pki.identity import SCHEME, Identity, Kind, verify_name
from flprov.pki.keys import PrivateKey, new_key, read_public_key, write_private_key
from flprov.pki.profiles import LEAVES, PROVISIONER
from flprov.pki.rules import PEER_RULES, PROVISIONER_RULES, RULES, Case, Rule


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A leaf certificate and its private key. `repr` shows no key."""

    certificate_pem: bytes  # the leaf
    chain_pem: bytes = field(repr=False)  # the leaf and the CA that issued it
    private_pem: bytes = field(repr=False)  # PKCS#8; empty when the party made its own key


def issue_identity(
    ca: Authority,
    identity: Identity,
    *,
    names: Sequence[str] = (),
    days: float,
    now: datetime,
    public_pem: bytes | None = None,
) -> Credential:
    """A certificate for `identity`, and a new key unless the party sent the public half of its own.

    Args:
        ca: the issuing CA of this kind of identity.
        identity: whom the certificate names.
        names: DNS names and IP addresses at which a server is dialled; empty for everyone else.
        days: how long it is valid, at most as long as the CA is.
        now: the time; the certificate is valid from five minutes before.
        public_pem: the party's public key. That the party holds the private half is for the caller to
            have verified.

    Raises:
        IdentityRefused: the CA may not issue this identity, a name is not a host name, or the key is
            too weak.
        Misuse: `days` is not a time that a certificate can last.
    """
    if identity.kind is Kind.SERVER and not names:
        raise IdentityRefused(
            f"a certificate for {identity} needs a DNS name or IP address at which it is dialled"
        )
    key = new_key() if public_pem is None else None
    public = key.public_key() if key else read_public_key(public_pem or b"")
    end = ca.end(days, now)
    profile, hosts = LEAVES[identity.kind], read_hosts(names)
    builder = build(profile, name_leaf(identity.name), public, [identity.uri, *hosts], now, end)
    return _deliver(ca, ca.sign(builder), key, now, (*RULES, *PEER_RULES))


def create_signer(root: Authority, *, project: str, days: int, now: datetime) -> Credential:
    """The provisioner's certificate: it signs kit manifests and nothing else.

    Raises:
        IdentityRefused: `root` is not a root, or `project` is not a name.
    """
    verify_name(project, "project")
    key = new_key()
    uri = f"{SCHEME}{root.trust_domain}/provisioner/{project}"
    end = root.end(days, now)
    builder = build(PROVISIONER, name_leaf("provisioner"), key.public_key(), [uri], now, end)
    return _deliver(root, root.sign(builder), key, now, (*RULES, *PROVISIONER_RULES))


def _deliver(
    ca: Authority, der: bytes, key: PrivateKey | None, now: datetime, rules: Sequence[Rule]
) -> Credential:
    """The credential around a fresh certificate, once every rule has passed it."""
    case = Case(leaf=read_certificate(der), anchor=ca.anchor, now=now)
    for rule in rules:
        rule(case)
    pem = case.leaf.pem
    return Credential(
        certificate_pem=pem,
        chain_pem=pem + ca.chain_pem,
        private_pem=write_private_key(key) if key else b"",
    )
