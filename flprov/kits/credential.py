# SPDX-License-Identifier: Apache-2.0
"""The certificate that a site or server uses now: its kit's, or a newer one that it got by renewing.

A kit never changes, so after 90 days every kit's own certificate has expired. What was renewed lies in
`<kit>.local/state/identity.pem`: chain and key in one file, so that they cannot come apart in a crash.
"""

from __future__ import annotations

import logging
import os
import random
import stat
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from flprov._base import write_private
from flprov.errors import FlprovError, IdentityRefused, KitRefused
from flprov.kits.heldtrust import FILE as TRUST_FILE
from flprov.kits.heldtrust import HeldTrust
from flprov.kits.kit import Kit
from flprov.pki import (
    Anchors,
    Kind,
    Leaf,
    describe_leaf,
    issued_at,
    join_anchors,
    load_anchors,
    not_after,
    verify_key_matches,
    verify_peer,
)

logger = logging.getLogger(__name__)

FILE = "identity.pem"
_KEY = b"-----BEGIN PRIVATE KEY-----\n"
_CERTIFICATE_END = b"-----END CERTIFICATE-----\n"
_LARGEST = 64 << 10
_PART = 1 / 3  # of a life after which it is renewed: two more tries before it ends, each of 30 days
_LATE_PART = 2 / 3  # when the next one would end with the same CA: waiting for a new CA gains more
_JITTER = 0.1  # of a life: a thousand sites that were provisioned at once do not come at once


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A certificate with its chain and key, described. `repr` shows no key."""

    chain_pem: bytes = field(repr=False)
    private_pem: bytes = field(repr=False)
    leaf: Leaf

    @property
    def not_after(self) -> datetime:
        """The last moment at which it is valid."""
        return self.leaf.not_after

    @property
    def issued_at(self) -> datetime:
        """When it was made, in whole seconds."""
        return self.leaf.issued_at


def current_credential(kit: Kit, *, anchors: Anchors, now: datetime, state: Path | None = None) -> Credential:
    """The newest certificate of this kit's identity that stands: its kit's, or the renewed one.

    A renewed one that cannot be read is set aside with a warning, and one of another identity is passed
    over: neither keeps anybody from starting.

    Args:
        kit: of a site or a server.
        anchors: the CAs that may have issued it: see `own_anchors`.
        now: the time.
        state: where the renewed one lies; `<kit>.local/state` when None.

    Raises:
        KitRefused: none is valid now; the message says why the newest is not, the hint the way back.
    """
    path = (state or kit.local / "state") / FILE
    own = _describe(kit.chain_pem, kit.private_pem)
    renewed = _read(path, kit)
    candidates = sorted(filter(None, [renewed, own]), key=lambda found: found.issued_at, reverse=True)
    refusal: IdentityRefused | None = None
    for found in candidates:
        try:
            verify_peer(found.chain_pem, anchors, now=now, kinds=[kit.kind])
        except IdentityRefused as error:
            refusal = refusal or error
        else:
            return found
    assert refusal is not None
    raise _none_stands(kit, candidates[0], refusal, now) from refusal


def look_at_renewed(kit: Kit, *, now: datetime) -> Credential | None:
    """The renewed one that is in use on this machine, for showing; None if there is none."""
    if not (kit.local / "state" / FILE).is_file():
        return None
    anchors = own_anchors(kit)
    held = HeldTrust(kit.local / "state" / TRUST_FILE, kit.anchors["root"], project_id=kit.project_id)
    try:
        held.load(now)
        if held.current is not None:
            unit = "servers" if kit.kind is Kind.SERVER else "sites"
            anchors = join_anchors(anchors, held.current.anchors[unit])
        found = _parse(kit.local / "state" / FILE)
        verify_peer(found.chain_pem, anchors, now=now, kinds=[kit.kind])
    except (FlprovError, OSError):
        return None
    is_ours = found.leaf.identity == kit.identity and found.issued_at >= issued_at(kit.chain_pem)
    return found if is_ours else None


def own_anchors(kit: Kit) -> Anchors:
    """The CA that issued the kit's own certificate, as long as no trust bundle names another."""
    return load_anchors(kit.chain_pem.partition(_CERTIFICATE_END)[2])


def verify_issued(
    kit: Kit, chain_pem: bytes, private_pem: bytes, *, anchors: Anchors, now: datetime
) -> Credential:
    """What was issued to us, if it is for us: our identity, our key, a CA that we believe.

    Raises:
        IdentityRefused: saying what is wrong with it.
    """
    verify_key_matches(chain_pem, private_pem)
    identity = verify_peer(chain_pem, anchors, now=now, kinds=[kit.kind])
    if identity != kit.identity:
        raise IdentityRefused(f"the new certificate is of {identity}, and this is {kit.identity}")
    return _describe(chain_pem, private_pem)


def store_credential(state: Path, credential: Credential) -> Path:
    """Keep it durably in place of the one before; the file that holds it.

    Raises:
        OSError: the disk is full, or the folder is not ours to write.
    """
    write_private(state / FILE, credential.chain_pem + credential.private_pem)
    return state / FILE


def renewal_due(credential: Credential, chance: random.Random) -> datetime:
    """When to renew it: after a third of its life, and some jitter.

    One that ends with its CA waits longer. What replaces it ends at the same moment, and lives as much
    shorter: thirds of what is left would come ever faster, and help nobody.
    """
    life = credential.not_after - credential.issued_at
    issuer = credential.chain_pem.partition(_CERTIFICATE_END)[2]
    part = _LATE_PART if issuer and not_after(issuer) <= credential.not_after else _PART
    return credential.issued_at + life * (part + chance.uniform(0, _JITTER))


def _describe(chain_pem: bytes, private_pem: bytes) -> Credential:
    return Credential(chain_pem=chain_pem, private_pem=private_pem, leaf=describe_leaf(chain_pem))


def _read(path: Path, kit: Kit) -> Credential | None:
    """The renewed one, if there is one and it is ours."""
    try:
        found = _parse(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s); the kit's own certificate is used", path, error.strerror)
        return None
    except FlprovError as error:
        _set_aside(path, error)
        return None
    if found.leaf.identity != kit.identity:
        logger.warning("%s is of %s, and this is %s: it is not used", path, found.leaf.identity, kit.identity)
        return None
    return found


def _parse(path: Path) -> Credential:
    # Not through a link, and without waiting for whoever might write into a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        found = os.fstat(file.fileno())
        data = file.read(_LARGEST + 1) if stat.S_ISREG(found.st_mode) else b""
    if len(data) > _LARGEST:
        raise IdentityRefused(f"it has more than {_LARGEST} bytes")
    chain, mark, rest = data.partition(_KEY)
    if b"-----BEGIN" in rest:
        raise IdentityRefused("something stands behind its private key")
    verify_key_matches(chain, mark + rest)
    if found.st_mode & 0o077:
        logger.warning("%s could be read by other users of this machine; it is made private again", path)
        path.chmod(0o600)
    return _describe(chain, mark + rest)


def _set_aside(path: Path, error: FlprovError) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    logger.warning(
        "%s is damaged (%s): it is now %s, and the kit's own certificate is used", path, error, aside
    )
    try:
        path.replace(aside)
    except OSError as failure:
        logger.warning("%s could not be moved (%s)", path, failure.strerror)


def _none_stands(kit: Kit, newest: Credential, refusal: IdentityRefused, now: datetime) -> KitRefused:
    if now <= newest.not_after:
        return KitRefused(str(refusal), hint=refusal.hint)
    return KitRefused(
        f"the certificate of {kit.identity} expired on {newest.not_after:%Y-%m-%d %H:%M:%S} UTC",
        hint=_way_back(kit),
    )


def _way_back(kit: Kit) -> str:
    whom = kit.contact or "the project's admin"
    if kit.kind is not Kind.SITE:
        return f"ask {whom} for a new kit: `flprov provision --reissue {kit.name}` there makes one"
    return (
        f"ask {whom} for a new invite: `flprov invite create {kit.name}` there, then"
        " `flprov join INVITE` here"
    )
