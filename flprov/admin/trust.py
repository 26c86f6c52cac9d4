# SPDX-License-Identifier: Apache-2.0
"""A person's part in trust: which servers to believe, learning of newer CAs, and publishing them.

A person's kit has the anchors of the day it was made. What the network believes since is asked for when a
client that was answered is closed, verified under the kit's root, and kept in `<kit>.local/trust.json`.
"""

from __future__ import annotations

import logging
import secrets
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flprov._base import Clock, to_iso
from flprov.admin.link import Link
from flprov.errors import FlprovError, IdentityRefused
from flprov.kits import HeldTrust, Kit, SignedTrust, Trust, newer_than_kit
from flprov.pki import Anchors
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

if TYPE_CHECKING:
    from flprov.kits import Publication

logger = logging.getLogger(__name__)

_COMMAND_LIFE = timedelta(minutes=2)  # a publication that arrives later is not carried out
_PATIENCE = 5.0  # seconds that the end of a command waits for the bundle


class PersonTrust:
    """Whom one person believes: the kit, or a newer bundle beside it."""

    def __init__(self, kit: Kit, now: datetime) -> None:
        self._kit = kit
        path = kit.local / "trust.json"
        self._held = HeldTrust(path, kit.anchors["root"], project_id=kit.project_id, first=kit.trust)
        try:
            self._held.load(now)
        except IdentityRefused as error:
            logger.warning("%s is not used: %s", path, error)

    @property
    def version(self) -> int:
        """Of the bundle that is held; 0: only the kit's anchors."""
        return self._held.version

    @property
    def newest(self) -> Trust | None:
        """The bundle that is held, where it is newer than the kit."""
        return newer_than_kit(self._held, self._kit)

    @property
    def servers(self) -> Anchors:
        """The CAs whose servers are dialled."""
        newer = newer_than_kit(self._held, self._kit)
        return newer.anchors["servers"] if newer else self._kit.anchors["servers"]

    @property
    def sites(self) -> Anchors | None:
        """The CAs that vouch for sites; None as long as nothing says which."""
        held = self._held.current
        return held.anchors["sites"] if held else self._kit.anchors.get("sites")

    def keep(self, signed: SignedTrust, now: datetime) -> None:
        """Hold a newer bundle from now on.

        Raises:
            IdentityRefused: no provisioner of this project signed it, or it is older.
        """
        trust = self._held.verify(signed, now)
        if trust is not None:
            self._kit.local.mkdir(mode=0o700, exist_ok=True)
            self._held.keep(trust)

    def learn(self, link: Link, now: datetime) -> None:
        """Ask the network for a newer bundle. What goes wrong is no reason for a command to fail."""
        try:
            found = link.unary(m.FETCH_TRUST, pb.Query(id=str(self.version)), timeout=_PATIENCE)
            if found.document:
                self.keep(
                    SignedTrust(document=found.document, signature=found.signature, signer=found.signer), now
                )
        except (FlprovError, OSError) as error:
            logger.info("no newer trust bundle was learnt: %s", error)


def show_trust(link: Link) -> doc.TrustStatusDocument:
    """What the live network believes, and who has heard of it."""
    return link.document(doc.TrustStatusDocument, m.SHOW_TRUST, pb.Query())


def publish_trust(link: Link, clock: Clock, publication: Publication) -> doc.TrustStatusDocument:
    """Bring a workspace's bundle to the live network.

    Raises:
        Refused, Conflict: the server does not take it, and says why.
    """
    signed = publication.signed
    request = pb.PublishTrust(
        trust=pb.TrustBundle(document=signed.document, signature=signed.signature, signer=signed.signer),
        keys=[
            pb.IssuingKey(certificate=ca.certificate_pem, private=ca.private_pem) for ca in publication.keys
        ],
        key=secrets.token_hex(8),
        not_after=to_iso(clock.now() + _COMMAND_LIFE),
    )
    return link.document(doc.TrustStatusDocument, m.PUBLISH_TRUST, request)
