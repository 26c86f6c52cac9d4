# SPDX-License-Identifier: Apache-2.0
"""A kit that a site made itself, having joined with an invite: what is believed of it, and why.

The provisioner never saw such a kit, so its manifest is signed with the site's own key. That signature
says that the kit is as the site made it; it cannot say whom to believe. So every CA in the kit must stand
in the trust bundle beside it, which a provisioner under the kit's root has signed. Nobody but a site can
have a kit of this sort, and no site can make one for another.
"""

from __future__ import annotations

from datetime import datetime

from flprov._base import dataclass
from flprov.errors import FlprovError, IdentityRefused
from flprov.kits.trust import Trust, decode_trust, verify_trust
from flprov.pki import (
    Anchors,
    Kind,
    certificate_identity,
    load_anchors,
    not_after,
    verify_signed,
)


@dataclass(frozen=True, kw_only=True)
class SelfMade:
    """The files of a kit on which its credibility hangs, as they lie there."""

    manifest: bytes
    signature: bytes
    signer: bytes
    certificate: bytes
    root: bytes
    trust: bytes
    servers: bytes
    people: bytes


def is_self_made(signer: bytes) -> bool:
    """Whether the certificate beside a manifest's signature claims to be a site's. Nothing is verified."""
    try:
        return certificate_identity(signer).kind is Kind.SITE
    except FlprovError:
        return False


def verify_self_made(
    kit: SelfMade, *, kind: Kind, name: str, project: str, project_id: str, now: datetime
) -> None:
    """Pass if this is the kit of site `name`, made by that very site.

    Kits never change, and the site renews its certificate elsewhere: so the signature is judged as of the
    certificate's last day at the latest.

    Args:
        kind, name, project, project_id: what the manifest says.

    Raises:
        IdentityRefused: saying what is wrong with it, as a whole sentence.
    """
    if kind is not Kind.SITE:
        raise IdentityRefused(f"a site signed it, and only the provisioner signs the kit of a {kind.value}")
    trust = verify_trust(decode_trust(kit.trust), load_anchors(kit.root), project_id=project_id, now=now)
    identity = verify_signed(
        kit.manifest,
        kit.signature,
        kit.signer,
        trust.anchors["sites"],
        now=min(now, not_after(kit.signer)),
        kinds=[Kind.SITE],
    )
    if identity.name != name:
        raise IdentityRefused(f"{identity} signed it, and it is the kit of site {name}")
    if kit.signer != kit.certificate:
        raise IdentityRefused(f"{identity} signed it with another certificate than the one in it")
    if trust.says.project != project:
        raise IdentityRefused(f"its trust bundle is of project {trust.says.project}, and it is of {project}")
    _verify_anchors(kit, trust)


def _verify_anchors(kit: SelfMade, trust: Trust) -> None:
    """Each CA that the kit believes is one that the provisioner named."""
    for name, pem in (("root", kit.root), ("servers", kit.servers), ("people", kit.people)):
        named = _ders(trust.anchors[name])
        if not _ders(load_anchors(pem)) <= named:
            raise IdentityRefused(f"its anchors/{name}.pem holds a CA that its trust bundle does not name")


def _ders(anchors: Anchors) -> frozenset[bytes]:
    return frozenset(anchor.certificate.der for anchor in anchors.members)
