# SPDX-License-Identifier: Apache-2.0
"""Whom the server believes now: the newest trust bundle, its kit's or one that was published since."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from flprov.errors import FlprovError, IdentityRefused, LocalError, StateDamaged
from flprov.kits import HeldTrust, Kit, SignedTrust, Trust
from flprov.pki import Anchors, Identity, Kind, Leaf, join_anchors


class TrustKeeper:
    """Holds the current bundle; listeners hear of each newer one."""

    def __init__(self, kit: Kit, state: Path) -> None:
        assert kit.trust is not None  # a server's kit has one
        self._path = state / "trust.json"
        self._held = HeldTrust(
            self._path,
            kit.anchors.get("root") or kit.trust.anchors["root"],
            project_id=kit.project_id,
            first=kit.trust,
        )
        self._listeners: list[Callable[[Trust], None]] = []
        self.current = kit.trust

    def load(self, now: datetime) -> None:
        """Read the bundle that was published last, if it is newer than the kit's.

        Raises:
            StateDamaged: it is not what a provisioner signed.
        """
        try:
            self._held.load(now)
        except FlprovError as error:
            raise StateDamaged(
                f"{self._path} cannot be used: {error}",
                hint="put back this file from a backup; or move it away, and publish the bundle again",
            ) from error
        self._note()

    def _note(self) -> None:
        assert self._held.current is not None
        self.current = self._held.current

    @property
    def peers(self) -> Anchors:
        """The CAs whose sites, invites and people may call."""
        return join_anchors(self.current.anchors["sites"], self.current.anchors["people"])

    def verify_not_listed(self, caller: Identity, leaf: Leaf | None) -> None:
        """Nothing, unless this is a person whose certificate the provisioner has revoked.

        Raises:
            IdentityRefused: it is on the list that the bundle carries.
        """
        if leaf is None or caller.kind is not Kind.PERSON:
            return
        if leaf.serial in self.current.revoked_people:
            raise listed(caller)

    def listen(self, listener: Callable[[Trust], None]) -> None:
        """Call `listener(trust)` from now on, after each newer bundle is on disk."""
        self._listeners.append(listener)

    def verify(self, signed: SignedTrust, now: datetime) -> Trust | None:
        """The bundle, if it is to replace the current one; None if it is that one.

        Raises:
            IdentityRefused: saying why the current one stays.
        """
        return self._held.verify(signed, now)

    def accept(self, trust: Trust) -> None:
        """Keep a newer bundle, durably, and tell everybody. The caller has verified it.

        Raises:
            LocalError: the disk does not take it; the old one stays.
        """
        try:
            self._held.keep(trust)
        except OSError as error:
            raise LocalError(f"the trust bundle cannot be kept: {error.strerror or error}") from error
        self._note()
        for listener in self._listeners:
            listener(trust)


def listed(person: Identity) -> IdentityRefused:
    """What a person reads whose certificate stands on the provisioner's list."""
    return IdentityRefused(
        f"the certificate of person {person.name} was revoked by whoever provisions this project",
        hint="ask there for a new kit",
    )
