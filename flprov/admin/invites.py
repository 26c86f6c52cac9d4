# SPDX-License-Identifier: Apache-2.0
"""Invites from the admin's side: the one who creates an invite makes its key and puts the line together.

The server never sees the invite's key, and whom the hospital is to believe comes out of the admin's own
kit: a server that was broken into could not send hospitals elsewhere.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from datetime import timedelta

from flprov._base import Clock, to_iso
from flprov.admin.link import Link
from flprov.errors import IdentityRefused, ProtocolError
from flprov.kits import (
    Answer,
    Invitation,
    Kit,
    SignedRequest,
    SignedTrust,
    Trust,
    encode_invitation,
    read_settings,
)
from flprov.pki import (
    Kind,
    certificate_identity,
    create_key,
    create_request,
    fingerprint,
    join_certificates,
    key_fingerprint,
    load_anchors,
    split_certificates,
    verify_key_matches,
    verify_request,
    verify_signer,
)
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

COMMAND_LIFE = timedelta(minutes=2)  # a command that arrives later is not carried out


@dataclass(frozen=True, kw_only=True)
class NewInvite:
    """An invite that was just made. `repr` does not show the line."""

    line: str = field(repr=False)  # as secret as a key until it is used
    invite: doc.InviteDocument
    site_added: bool
    replaced: tuple[str, ...]


def create_invite(
    link: Link,
    kit: Kit,
    clock: Clock,
    *,
    site: str,
    org: str,
    lifetime: timedelta,
    approval: bool,
    trust: Trust | None = None,
) -> NewInvite:
    """A new invite for a site.

    Args:
        link: to the server.
        kit: the admin's: whom the hospital is to believe comes out of it.
        clock: says until when the command may be carried out.
        site: whom it is for.
        org: its organisation; when given, the site is added if the project does not have it.
        lifetime: how long it can be used.
        approval: whether an admin compares the fingerprint of the hospital's key first.
        trust: a bundle that is newer than the kit, after a rotation.

    Raises:
        NotFound: no such site, and no organisation was given.
        Conflict: the site is another organisation's, or locked.
        ProtocolError: the server's answer is not for this invite.
    """
    private_pem = create_key()
    request = pb.InviteRequest(
        site=site,
        org=org,
        lifetime_seconds=lifetime.total_seconds(),
        approval=approval,
        request=create_request(private_pem),
        key=secrets.token_hex(8),
        not_after=_soon(clock),
    )
    found = link.document(doc.InviteIssueDocument, m.CREATE_INVITE, request)
    certificate = found.certificate.encode()
    _verify_issued(found, certificate, private_pem, site)
    leaf, *_ = split_certificates(certificate)
    line = encode_invitation(
        Invitation(
            project=kit.project,
            project_id=kit.project_id,
            server=kit.server,
            endpoints=kit.endpoints,
            root=fingerprint(_root(kit, trust, clock)),
            server_anchors_pem=(trust or kit).anchors["servers"].pem,
            chain_pem=join_certificates(leaf),
            private_pem=private_pem,
        )
    )
    return NewInvite(line=line, invite=found.invite, site_added=found.site_added, replaced=found.replaced)


def _root(kit: Kit, trust: Trust | None, clock: Clock) -> bytes:
    """The root under which the project's trust bundle is signed, PEM: of several, in a rotation, that one."""
    if trust is None:
        return kit.anchors["root"].pem
    for text in trust.says.roots:
        with contextlib.suppress(IdentityRefused):
            verify_signer(trust.signed.signer, load_anchors(text.encode()), now=clock.now())
            return text.encode()
    return kit.anchors["root"].pem


def _verify_issued(found: doc.InviteIssueDocument, certificate: bytes, private_pem: bytes, site: str) -> None:
    identity = certificate_identity(certificate)
    if (identity.kind, identity.name, identity.invite) != (Kind.INVITE, site, found.invite.id):
        raise ProtocolError(f"the server answered with a certificate of {identity} to an invite for {site}")
    verify_key_matches(certificate, private_pem)


def list_invites(link: Link) -> tuple[doc.InviteDocument, ...]:
    """Every invite that the caller may decide on, the newest first."""
    return link.document(doc.InviteListDocument, m.LIST_INVITES, pb.Query()).invites


def decide_invite(
    link: Link, clock: Clock, *, invite: str, approve: bool, fingerprint: str = "", reason: str = ""
) -> doc.InviteDocument:
    """Approve the key that came with an invite, or take the invite back.

    Raises:
        NotFound: no such invite.
        Conflict: it is too late, or too early.
        Refused: the fingerprint is another one.
    """
    decision = pb.InviteDecision(
        id=invite,
        approve=approve,
        fingerprint=fingerprint,
        reason=reason,
        key=secrets.token_hex(8),
        not_after=_soon(clock),
    )
    return link.document(doc.InviteDocument, m.DECIDE_INVITE, decision)


def relay_join(link: Link, clock: Clock, signed: SignedRequest) -> Answer:
    """The server's answer to a request that came as a file.

    Raises:
        IdentityRefused: the invite cannot be used, or did not sign this request.
    """
    request = pb.RelayedJoin(
        request=signed.request,
        signature=signed.signature,
        chain=signed.chain,
        key=secrets.token_hex(8),
        not_after=_soon(clock),
    )
    reply: pb.JoinReply = link.unary(m.RELAY_JOIN, request)
    if reply.WhichOneof("body") != "issued":
        raise ProtocolError("the server answered to a join request without a certificate")
    bundle = reply.issued.trust
    return Answer(
        chain_pem=reply.issued.chain,
        trust=SignedTrust(document=bundle.document, signature=bundle.signature, signer=bundle.signer),
        contact=read_settings(reply.issued.settings).contact,
    )


def fingerprint_of(signed: SignedRequest) -> str:
    """Of the key in a request that came as a file: what the hospital shows.

    Raises:
        IdentityRefused: there is no good request in it.
    """
    return key_fingerprint(verify_request(signed.request))


def _soon(clock: Clock) -> str:
    return to_iso(clock.now() + COMMAND_LIFE)
