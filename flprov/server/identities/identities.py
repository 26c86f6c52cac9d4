# SPDX-License-Identifier: Apache-2.0
"""Wires the services of identities for one server."""

from __future__ import annotations

from pathlib import Path

from flprov._base import Clock
from flprov.kits import Kit
from flprov.rpc import Handler, Listener
from flprov.rpc import methods as m
from flprov.server.identities.book import CertificateBook
from flprov.server.identities.inviteservice import InviteService
from flprov.server.identities.issuing import Issuer
from flprov.server.identities.partyservice import PartyService
from flprov.server.identities.renewalservice import RenewalService
from flprov.server.identities.surroundings import Surroundings
from flprov.server.identities.trust import TrustKeeper
from flprov.server.identities.trustservice import TrustService
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Store


class Identities:
    """Everything about identities that the server does."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        kit: Kit,
        state: Path,
        registry: Registry,
        sessions: Sessions,
        passphrase: bytes | None,
    ) -> None:
        self._clock = clock
        self.around = around = Surroundings(
            clock=clock,
            store=store,
            kit=kit,
            registry=registry,
            sessions=sessions,
            issuer=Issuer(kit, state / "authority", passphrase=passphrase, clock=clock),
            book=CertificateBook(store),
            trust=TrustKeeper(kit, state),
        )
        self.parties = PartyService(around)
        self.invites = InviteService(around)
        self.renewals = RenewalService(around)
        self.trust = TrustService(around)

    def load(self) -> None:
        """Read what was remembered; open the CA keys.

        Raises:
            Misuse: the CA keys are encrypted, and the passphrase is missing or wrong.
            StateDamaged: something on disk cannot be read.
        """
        self.around.trust.load(self._clock.now())
        self.around.issuer.load()
        self.around.book.load()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers of every service."""
        services = (self.parties, self.invites, self.renewals, self.trust)
        return {method: handler for service in services for method, handler in service.table().items()}

    def attach(self, listener: Listener) -> None:
        """From now on open calls can be ended."""
        self.around.drop = listener.drop
