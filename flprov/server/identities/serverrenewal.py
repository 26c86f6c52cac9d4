# SPDX-License-Identifier: Apache-2.0
"""The server's own certificate: renewed by the server itself, with the servers CA that it holds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from flprov._base import to_iso
from flprov.errors import FlprovError, KitRefused
from flprov.kits import Credential, Renewing, Trust, current_credential, store_credential, verify_issued
from flprov.pki import Anchors, Kind, host_names
from flprov.server.identities.book import CertificateRecord, delete, describe, put
from flprov.server.identities.surroundings import Surroundings
from flprov.store import Row

logger = logging.getLogger(__name__)


class ServerRenewal:
    """Holds the certificate that the server shows, and renews it. `load` first, then `run`."""

    def __init__(self, around: Surroundings, state: Path) -> None:
        self._around = around
        self._state = state
        self._renewing: Renewing | None = None
        self._in_use: Credential | None = None
        self._unwritten = False  # made at the start, or found there: not in the book on disk
        self.done: Callable[[CertificateRecord], None] = lambda _record: None  # told of each new one

    def load(self) -> None:
        """Find the certificate to begin with, or make one: an expired server helps itself."""
        around = self._around
        try:
            found = current_credential(
                around.kit, anchors=self._anchors, now=around.clock.now(), state=self._state
            )
        except KitRefused as error:
            found = self._issue()
            logger.warning("%s; the server has made itself a new certificate", error)
            self._store_if_possible(found)
        self._in_use = found
        self._unwritten = not self._is_from_kit and not around.book.knows(f"{found.leaf.serial:x}")
        if self._unwritten:
            around.book.add(describe(found.leaf, "renewal"))
        around.shown = lambda: (self.credential.chain_pem, self.credential.private_pem)
        around.trust.listen(self._believe)

    @property
    def credential(self) -> Credential:
        """The one that is shown to whoever connects now."""
        assert self._in_use is not None, "load comes first"
        return self._in_use

    async def run(self) -> None:
        """Renew whenever it is due, or another CA issues servers from now on; until cancelled."""
        around = self._around
        self._renewing = Renewing(self.credential, self._renew, clock=around.clock)
        if self._unwritten:
            await self._record(self.credential)
        if not self._is_of_active_ca:
            self._renewing.ring()
        await self._renewing.run()

    def renew_now(self) -> None:
        """An admin asks for it."""
        if self._renewing is not None:
            self._renewing.ring()

    def _believe(self, trust: Trust) -> None:
        """A newer bundle: perhaps another CA issues servers from now on."""
        if not self._is_of_active_ca and self._renewing is not None:
            logger.info("trust bundle %d: another CA issues servers from now on", trust.version)
            self._renewing.ring()

    async def _renew(self) -> Credential:
        found = self._issue()
        await asyncio.to_thread(store_credential, self._state, found)
        self._in_use = found
        self._around.show(found.chain_pem, found.private_pem, None)
        await self._record(found)
        return found

    def _issue(self) -> Credential:
        around = self._around
        names = host_names(around.kit.chain_pem)
        made = around.issuer.issue(around.kit.identity, around.trust.current, names=names)
        return verify_issued(
            around.kit, made.chain_pem, made.private_pem, anchors=self._anchors, now=around.clock.now()
        )

    def _store_if_possible(self, credential: Credential) -> None:
        """At the start the server goes on without: the next start would make itself another one."""
        try:
            store_credential(self._state, credential)
        except OSError as error:
            logger.warning("the new certificate could not be stored in %s: %s", self._state, error)

    async def _record(self, credential: Credential) -> None:
        """Into the book and the log. That it is in use already stays so whatever the disk says."""
        record = describe(credential.leaf, "renewal")
        gone = self._around.book.expired(record.identity, self._around.clock.now())
        row = Row(
            who="server",
            what="cert.renew",
            object=self._around.kit.name,
            data={"serial": record.serial, "not_after": to_iso(record.not_after)},
        )
        try:
            await self._around.store.commit([put(record), *map(delete, gone)], row)
        except FlprovError as error:
            logger.warning("the server's new certificate could not be written down: %s", error)
        self._around.book.add(record)
        self._around.book.remove(gone)
        self.done(record)

    @property
    def _anchors(self) -> Anchors:
        return self._around.trust.current.anchors["servers"]

    @property
    def _is_from_kit(self) -> bool:
        return self.credential.chain_pem == self._around.kit.chain_pem

    @property
    def _is_of_active_ca(self) -> bool:
        return self.credential.leaf.issuer_key_id == self._around.trust.current.active(Kind.SERVER)
