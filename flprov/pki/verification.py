# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end: a chain, the anchors and the time in; an identity or a refusal out.

A chain is a leaf, alone or followed by the issuing CA that signed it. The issuing CA must be one of the
anchors; the copy that came along is compared with ours and then forgotten. No path is ever built.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable
from datetime import datetime

from flprov.errors import IdentityRefused
from flprov.pki.anchors import Anchor, Anchors
from flprov.pki.certificates import (
    Certificate,
    describe_issuer,
    public_der,
    read_certificate,
    split_pem,
)
from flprov.pki.identity import Identity, Kind
from flprov.pki.rules import (
    PARTIES,
    PEER_RULES,
    PROVISIONER_RULES,
    RULES,
    Case,
    Rule,
    verify_kinds,
    verify_not_revoked,
)

_LONGEST_CHAIN = 2
_FOREIGN = (
    "it belongs to another project, or the project has a new CA: compare the fingerprints of both kits' CAs;"
    " a new kit or invite is the way back"
)


def verify_peer(
    chain_pem: bytes,
    anchors: Anchors,
    *,
    now: datetime,
    kinds: Collection[Kind] | None = None,
    revoked: Container[int] = (),
) -> Identity:
    """The identity that a chain proves. Every rule runs; a quarter of a millisecond.

    Args:
        chain_pem: the leaf, alone (as gRPC's `x509_pem_cert` is) or followed by its issuing CA.
        anchors: the issuing CAs that may vouch.
        now: the time, aware.
        kinds: which kinds are welcome. When None, servers, sites and people, as far as the anchors may
            issue them; an invite is accepted only where it is asked for.
        revoked: serial numbers of certificates that are refused (`CRL.revoked` is such a container).

    Raises:
        IdentityRefused: naming the field, and the next step where there is one.
    """
    return verify_leaf(chain_pem, anchors, now=now, kinds=kinds, revoked=revoked).identity


def verify_signer(chain_pem: bytes, root: Anchors, *, now: datetime) -> str:
    """The URI of the provisioner that a chain proves: `spiffe://<trust domain>/provisioner/<project>`.

    Raises:
        IdentityRefused: naming the field.
    """
    return _verify(chain_pem, root, now, (*RULES, *PROVISIONER_RULES)).leaf.uris[0]


def verify_leaf(
    chain_pem: bytes,
    anchors: Anchors,
    *,
    now: datetime,
    kinds: Collection[Kind] | None,
    revoked: Container[int],
) -> Case:
    """The verified case behind `verify_peer`, for those who need the certificate too."""
    case = _verify(chain_pem, anchors, now, (*RULES, *PEER_RULES))
    verify_kinds(case, PARTIES if kinds is None else frozenset(kinds))
    verify_not_revoked(case, revoked)
    return case


def _verify(chain_pem: bytes, anchors: Anchors, now: datetime, rules: Iterable[Rule]) -> Case:
    first, *rest = split_pem(chain_pem, most=_LONGEST_CHAIN)
    leaf = read_certificate(first)
    case = Case(leaf=leaf, anchor=_find_anchor(leaf, anchors), now=now)
    for rule in rules:
        rule(case)
    for der in rest:
        _verify_companion(der, case)
    return case


def _find_anchor(leaf: Certificate, anchors: Anchors) -> Anchor:
    for anchor in anchors.members:
        if leaf.issuer_key_id == anchor.key_id:
            return anchor
    raise IdentityRefused(f"the certificate of {leaf.claim} {_stranger(leaf, anchors)}", hint=_FOREIGN)


def _stranger(leaf: Certificate, anchors: Anchors) -> str:
    if leaf.version != 3:
        return f"is X.509 version {leaf.version}, not 3"
    if leaf.issuer == leaf.subject:
        return "is signed by itself, not by a CA of this project"
    if leaf.issuer_key_id is None:
        return "has no authorityKeyIdentifier, so nothing says which CA issued it"
    if any(leaf.issuer == anchor.certificate.subject for anchor in anchors.members):
        return f"is issued by a CA with the name of {anchors.names} but another key"
    return f"is issued by {describe_issuer(leaf)}, which is not {anchors.names} that is trusted here"


def _verify_companion(der: bytes, case: Case) -> None:
    """The second certificate of a chain is the anchor, or the anchor's key with new dates."""
    trusted = case.anchor.certificate
    if der == trusted.der:
        return
    companion = read_certificate(der)
    if companion.key is None or trusted.key is None or public_der(companion.key) != public_der(trusted.key):
        raise case.refuse("is followed by a second certificate that is not the CA that issued it")
