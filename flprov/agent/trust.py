# SPDX-License-Identifier: Apache-2.0
"""Whom the site believes: the trust bundle in its state if that is newer than its kit, else the kit.

The server brings bundles and cannot make one: each is verified here, under a root that this site holds.
"""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

from flprov.errors import IdentityRefused
from flprov.kits import HeldTrust, Kit, SignedTrust, Trust, newer_than_kit, own_anchors
from flprov.pki import Anchors, join_anchors
from flprov.wire import pb

logger = logging.getLogger(__name__)

FILE = "trust.json"


class SiteTrust:
    """The anchors to go by now; `load` first, then `take` whatever the server sends."""

    def __init__(self, kit: Kit, state: Path) -> None:
        self._kit = kit
        self._path = state / FILE
        roots = kit.anchors.get("root") or own_anchors(kit)
        self._held = HeldTrust(self._path, roots, project_id=kit.project_id, first=kit.trust)

    def load(self, now: datetime) -> None:
        """Read the bundle that was kept. One that cannot be used is set aside: the kit's anchors count."""
        try:
            self._held.load(now)
        except IdentityRefused as error:
            aside = self._held.set_aside()
            logger.warning("%s is not used (%s); it is now %s", self._path, error, aside)

    def take(self, message: pb.TrustBundle, now: datetime) -> pb.FromSite | None:
        """Keep a newer bundle, durably; what to answer, or None if it is refused and the old one stays."""
        signed = SignedTrust(document=message.document, signature=message.signature, signer=message.signer)
        try:
            trust = self._held.verify(signed, now)
            if trust is not None:
                self._held.keep(trust)
                logger.info("trust bundle %d (%s) is in force", trust.version, trust.says.phase)
        except IdentityRefused as error:
            logger.warning("the server sent a trust bundle that is refused: %s", error)
            return None
        except OSError as error:
            logger.warning("trust bundle could not be kept: %s", error.strerror or error)
            return None
        return pb.FromSite(trust=pb.TrustHeld(version=self.version))

    @property
    def version(self) -> int:
        """Of the bundle that is held; 0: only the kit's anchors."""
        return self._held.version

    @property
    def servers(self) -> Anchors:
        """The CAs whose servers are dialled."""
        return self._of("servers")

    @property
    def people(self) -> Anchors:
        """The CAs whose people may sign jobs."""
        return self._of("people")

    @property
    def sites(self) -> Anchors:
        """The CAs that may have issued this site's own certificate."""
        if self._newer is not None:
            return self._newer.anchors["sites"]
        held = self._held.current
        own = own_anchors(self._kit)
        return join_anchors(own, held.anchors["sites"]) if held else own

    @property
    def revoked_people(self) -> frozenset[int]:
        """Serial numbers of people's certificates that are refused. A newer kit does not bring them back."""
        return self._held.current.revoked_people if self._held.current else frozenset()

    @property
    def _newer(self) -> Trust | None:
        return newer_than_kit(self._held, self._kit)

    def _of(self, name: str) -> Anchors:
        newer = self._newer
        return newer.anchors[name] if newer else self._kit.anchors[name]
