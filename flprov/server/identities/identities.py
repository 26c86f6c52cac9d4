# SPDX-License-Identifier: Apache-2.0
"""Wires the services of identities for one server."""

from __future__ import annotations

from pathlib import Path

from flprov._base import Clock, Tasks
from flprov.kits import Kit
from flprov.rpc import Handler, Listener
from flprov.rpc import methods as m
from flprov.server.commands import Commands
from flprov.server.identities.book import CertificateBook
from flprov.server.identities.certificates import list_certificates
from flprov.server.identities.expiry import ExpiryWatch, find_warnings
from flprov.server.identities.gate import Gate
from flprov.server.identities.inviteservice import InviteService
from flprov.server.identities.issuing import Issuer
from flprov.server.identities.partyservice import PartyService
from flprov.server.identities.renewalservice import RenewalService
from flprov.server.identities.serverrenewal import ServerRenewal
from flprov.server.identities.surroundings import Surroundings
from flprov.server.identities.trust import TrustKeeper
from flprov.server.identities.trustservice import TrustService
from flprov.server.registry import Registry
from flprov.server.sessions import Sessions
from flprov.store import Store
from flprov.wire.documents import CertificateWarning


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
            commands=Commands(store, clock),
        )
        self._tasks = Tasks("expiry")
        self.gate = Gate(around)
        self.expiry = ExpiryWatch(around)
        around.changed = self.expiry.wake
        around.book.listen(self.expiry.wake)
        around.trust.listen(lambda _trust: self.expiry.wake())
        self.parties = PartyService(around)
        self.invites = InviteService(around)
        self.renewals = RenewalService(around, ServerRenewal(around, state))
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
        self.invites.load()
        self.around.commands.load()
        self.renewals.load()
        self.trust.load()

    def table(self) -> dict[m.Method, Handler]:
        """The handlers of every service."""
        services = (self.parties, self.invites, self.renewals, self.trust)
        return {method: handler for service in services for method, handler in service.table().items()}

    async def close(self) -> None:
        """End what runs in the background."""
        await self.renewals.close()
        await self._tasks.close()
        await self.gate.close()

    def attach(self, listener: Listener) -> None:
        """From now on open calls can be ended, and another certificate can be shown."""
        self.around.drop = listener.drop
        self.around.show = listener.renew
        self.renewals.start()
        self._tasks.spawn(self.expiry.run())

    def warnings(self) -> tuple[CertificateWarning, ...]:
        """What ends soon, or was not renewed in time."""
        now = self._clock.now()
        return find_warnings(list_certificates(self.around, now), now)
