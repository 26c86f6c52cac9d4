# SPDX-License-Identifier: Apache-2.0
"""What every service of identities works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

from flprov._base import Clock
from flprov.errors import FlprovError
from flprov.kits import Kit
from flprov.pki import Anchors
from flprov.server.commands import Commands
from flprov.server.identities.book import CertificateBook
from flprov.server.identities.issuing import Issuer
from flprov.server.identities.trust import TrustKeeper
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Store


def _drop_nobody(_identity_uri: str, _reason: FlprovError) -> int:
    return 0


async def _nothing_waits() -> None:
    """As long as nobody listens."""


def _tell_nobody() -> None:
    """As long as nobody listens."""


def _show_nobody(_chain_pem: bytes, _private_pem: bytes, _anchors: Anchors | None) -> None:
    """As long as nobody listens."""


@dataclass(kw_only=True)
class Surroundings:
    """Shared parts. `drop` and `show` are the listener's, once there is one."""

    clock: Clock
    store: Store
    kit: Kit
    registry: Registry
    sessions: Sessions
    issuer: Issuer = field(repr=False)
    book: CertificateBook
    trust: TrustKeeper
    commands: Commands
    last_seen: dict[str, datetime] = field(default_factory=dict)  # people, by URI, since the start
    drop: Callable[[str, FlprovError], int] = _drop_nobody  # ends the open calls of an identity
    settled: Callable[[], Awaitable[None]] = _nothing_waits  # whoever has called so far is in the book
    changed: Callable[[], None] = _tell_nobody  # certificates, locks or CAs are others than before
    # Shows a certificate to whoever connects from now on, and believes these CAs (None: as before).
    show: Callable[[bytes, bytes, Anchors | None], None] = _show_nobody
    # The server's own certificate in use and its key; None: the kit's. Whoever renews it sets this.
    shown: Callable[[], tuple[bytes, bytes]] | None = None

    def credential(self) -> tuple[bytes, bytes]:
        """The chain and the key that the server shows now."""
        return self.shown() if self.shown else (self.kit.chain_pem, self.kit.private_pem)
