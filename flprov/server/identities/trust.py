# SPDX-License-Identifier: Apache-2.0
"""Whom the server believes now: the newest trust bundle, its kit's or one that was published since."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from flprov._base import write_atomic
from flprov.errors import FlprovError, StateDamaged
from flprov.kits import Kit, Trust, decode_trust, verify_trust
from flprov.pki import Anchors, join_anchors


class TrustKeeper:
    """Holds the current bundle; listeners hear of each newer one."""

    def __init__(self, kit: Kit, state: Path) -> None:
        assert kit.trust is not None  # a server's kit has one
        self._kit = kit
        self._path = state / "trust.json"
        self._listeners: list[Callable[[Trust], None]] = []
        self.current = kit.trust

    def load(self, now: datetime) -> None:
        """Read the bundle that was published last, if it is newer than the kit's.

        Raises:
            StateDamaged: it is not what a provisioner signed.
        """
        if not self._path.exists():
            return
        try:
            found = verify_trust(
                decode_trust(self._path.read_bytes()),
                self.current.anchors["root"],
                project_id=self._kit.project_id,
                now=now,
            )
        except FlprovError as error:
            raise StateDamaged(
                f"{self._path} cannot be used: {error}",
                hint="put back this file from a backup; or move it away, and publish the bundle again",
            ) from error
        if found.version > self.current.version:
            self.current = found

    @property
    def peers(self) -> Anchors:
        """The CAs whose sites, invites and people may call."""
        return join_anchors(self.current.anchors["sites"], self.current.anchors["people"])

    def listen(self, listener: Callable[[Trust], None]) -> None:
        """Call `listener(trust)` from now on, after each newer bundle is on disk."""
        self._listeners.append(listener)

    def accept(self, trust: Trust) -> None:
        """Keep a newer bundle, durably, and tell everybody. The caller has verified it."""
        write_atomic(self._path, trust.signed.encode())
        self.current = trust
        for listener in self._listeners:
            listener(trust)
