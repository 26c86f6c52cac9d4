# SPDX-License-Identifier: Apache-2.0
"""What every service of identities works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flprov._base import Clock
from flprov.errors import FlprovError
from flprov.kits import Kit
from flprov.server.identities.book import CertificateBook
from flprov.server.identities.issuing import Issuer
from flprov.server.identities.trust import TrustKeeper
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Store


def _drop_nobody(_identity_uri: str, _reason: FlprovError) -> int:
    return 0


@dataclass(kw_only=True)
class Surroundings:
    """Shared parts. `drop` is the listener's, once there is one."""

    clock: Clock
    store: Store
    kit: Kit
    registry: Registry
    sessions: Sessions
    issuer: Issuer = field(repr=False)
    book: CertificateBook
    trust: TrustKeeper
    drop: Callable[[str, FlprovError], int] = _drop_nobody  # ends the open calls of an identity
