# SPDX-License-Identifier: Apache-2.0
"""What comes back to a site that joins, judged against its invite; and the kit that is made from it.

The server's word counts for nothing here. The trust bundle must be signed under the root that the invite
pins, the certificate must be for the invited site and for the key that was made on this machine, and a CA
of that bundle must have issued it.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import IdentityRefused, Misuse
from flprov.kits.authorities import UNITS
from flprov.kits.invitation import Invitation, pick_root
from flprov.kits.manifest import (
    ANCHORS,
    CERTIFICATE,
    KEY,
    MANIFEST,
    ROOT,
    SIGNATURE,
    SIGNER,
    TRUST,
    Files,
    build_manifest,
)
from flprov.kits.texts import NetworkFacts, Texts
from flprov.kits.trust import SignedTrust, Trust, decode_trust, verify_trust
from flprov.pki import Kind, not_after, sign, verify_key_matches, verify_peer

_REQUEST, _RESPONSE = "flprov join request", "flprov join response"
_LARGEST = 32 << 20
_LONGEST_CONTACT = 200

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server gives to a site that joins. Nothing in it is believed yet; nothing is secret."""

    chain_pem: bytes = field(repr=False)
    trust: SignedTrust = field(repr=False)
    contact: str = ""  # for people to read


@dataclass(frozen=True, kw_only=True)
class JoinSettings:
    """The server's part of a kit's texts."""

    contact: str = ""


@dataclass(frozen=True, kw_only=True)
class SignedRequest:
    """A request for a certificate that people carry: the invite's key vouches for it. Nothing is secret."""

    request: bytes  # PKCS#10, PEM
    signature: bytes
    chain: bytes  # the invite's certificate, PEM


@dataclass(frozen=True, kw_only=True)
class _RequestFile:
    what: str
    format: int
    site: str  # for people to read
    request: str
    signature: str  # base64
    chain: str


@dataclass(frozen=True, kw_only=True)
class _ResponseFile:
    what: str
    format: int
    chain: str
    trust: str
    contact: str


def verify_answer(invitation: Invitation, private_pem: bytes, answer: Answer, *, now: datetime) -> Trust:
    """The trust bundle in the answer, once the answer is what was asked for.

    Raises:
        IdentityRefused: saying what is wrong with it.
    """
    site = invitation.site
    trust = _verify_bundle(invitation, answer.trust, now)
    if trust.says.trust_domain != site.trust_domain or trust.says.project != invitation.project:
        raise IdentityRefused(
            f"the server's trust bundle is of {trust.says.project} in {trust.says.trust_domain}, and the"
            f" invite is to {invitation.project} in {site.trust_domain}"
        )
    found = verify_peer(answer.chain_pem, trust.anchors["sites"], now=now, kinds=[Kind.SITE])
    if found != site:
        raise IdentityRefused(f"the server issued a certificate for {found}, and the invite is for {site}")
    verify_key_matches(answer.chain_pem, private_pem)
    return trust


def _verify_bundle(invitation: Invitation, signed: SignedTrust, now: datetime) -> Trust:
    """The bundle names its roots itself; only the one that the invite pins may vouch for it."""
    try:
        offered = parse_json(signed.document)["roots"]
        roots = pick_root(invitation, [str(text) for text in offered[:16]])
    except (ValueError, KeyError, TypeError) as error:
        raise IdentityRefused("the trust bundle cannot be read: it names no roots") from error
    return verify_trust(signed, roots, project_id=invitation.project_id, now=now)


def compose_joined(invitation: Invitation, private_pem: bytes, answer: Answer, *, now: datetime) -> Files:
    """Every file of the kit of a site that joined: as provisioning makes it, but signed by the site.

    Raises:
        IdentityRefused: the answer is not what was asked for.
    """
    trust = verify_answer(invitation, private_pem, answer, now=now)
    site, root = invitation.site, pick_root(invitation, trust.says.roots)
    files = {
        **_texts(invitation, answer).render(
            site, org=site.org, not_after=not_after(answer.chain_pem), joined=True
        ),
        CERTIFICATE: (answer.chain_pem, 0o644),
        KEY: (private_pem, 0o600),
        ROOT: (root.pem, 0o644),
        TRUST: (answer.trust.encode(), 0o644),
        SIGNER: (answer.chain_pem, 0o644),
    }
    for kind in (Kind.SERVER, Kind.PERSON):
        unit = UNITS[kind]
        files[f"{ANCHORS}/{unit}.pem"] = (trust.anchors[unit].pem, 0o644)
    manifest = build_manifest(
        files,
        kind=Kind.SITE,
        name=site.name,
        project=invitation.project,
        project_id=invitation.project_id,
        now=now,
    )
    return {**files, MANIFEST: (manifest, 0o644), SIGNATURE: (sign(private_pem, manifest), 0o644)}


def _texts(invitation: Invitation, answer: Answer) -> Texts:
    contact = answer.contact[:_LONGEST_CONTACT]
    return Texts(
        NetworkFacts(
            project=invitation.project,
            project_id=invitation.project_id,
            trust_domain=invitation.site.trust_domain,
            contact=contact if contact.isprintable() and contact else "whoever sent you the invite",
            server=invitation.server,
            endpoints=invitation.endpoints,
        )
    )


# ---- as files, for machines without a network --------------------------------------------------


def sign_request(invitation: Invitation, request_pem: bytes) -> SignedRequest:
    """The request, vouched for by the invite's key."""
    return SignedRequest(
        request=request_pem,
        signature=sign(invitation.private_pem, request_pem),
        chain=invitation.chain_pem,
    )


def encode_request(signed: SignedRequest, *, site: str) -> bytes:
    """The bytes of a request file."""
    return _write(
        _RequestFile(
            what=_REQUEST,
            format=1,
            site=site,
            request=signed.request.decode(),
            signature=base64.b64encode(signed.signature).decode(),
            chain=signed.chain.decode(),
        )
    )


def decode_request(data: bytes) -> SignedRequest:
    """What a request file says; not verified.

    Raises:
        Misuse: it is none.
    """
    found = _read(_RequestFile, data, _REQUEST, "`flprov join INVITE --request FILE`, at the hospital")
    try:
        signature = base64.b64decode(found.signature, validate=True)
    except binascii.Error as error:
        raise Misuse("the request file was changed: its signature is not base64") from error
    return SignedRequest(request=found.request.encode(), signature=signature, chain=found.chain.encode())


def encode_answer(answer: Answer) -> bytes:
    """The bytes of a response file.

    Raises:
        IdentityRefused: the answer holds bytes that are no text; nobody has verified it.
    """
    try:
        chain, trust = answer.chain_pem.decode(), answer.trust.encode().decode()
    except UnicodeDecodeError as error:
        raise IdentityRefused("the server's answer is neither a certificate nor a trust bundle") from error
    return _write(_ResponseFile(what=_RESPONSE, format=1, chain=chain, trust=trust, contact=answer.contact))


def decode_answer(data: bytes) -> Answer:
    """What a response file says; not verified.

    Raises:
        Misuse: it is none.
    """
    maker = "`flprov invite approve --request FILE --response FILE`, at the admin's"
    found = _read(_ResponseFile, data, _RESPONSE, maker)
    try:
        trust = decode_trust(found.trust.encode())
    except IdentityRefused as error:
        raise Misuse(f"the response file was changed: {error}") from error
    return Answer(chain_pem=found.chain.encode(), trust=trust, contact=found.contact)


def read_settings(data: bytes) -> JoinSettings:
    """The settings that come over the network. What cannot be read is not needed."""
    try:
        return from_document(JoinSettings, parse_json(data))
    except ValueError:
        return JoinSettings()


def _write(document: _RequestFile | _ResponseFile) -> bytes:
    return canonical_json(document) + b"\n"


def _read(kind: type[T], data: bytes, what: str, maker: str) -> T:
    if len(data) > _LARGEST:
        raise Misuse(f"the file is no {what}: it has {len(data)} bytes", hint=f"it is made by {maker}")
    try:
        document = parse_json(data)
        if document["what"] != what or document["format"] != 1:
            raise ValueError("it is something else")
        return from_document(kind, document)
    except (ValueError, KeyError, TypeError) as error:
        raise Misuse(
            f"the file is no {what}, or it was changed on the way", hint=f"made by {maker}"
        ) from error
