# SPDX-License-Identifier: Apache-2.0
"""The site's certificate: renewed over the live connection, with a new key each time, and without a stop.

Nothing depends on one answer: until the new certificate is on the disk the old one stays in use, and it
lives twice as long again as it has.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from flprov._base import Clock
from flprov.errors import FlprovError, LocalError
from flprov.kits import Credential, Kit, Renewing, current_credential, store_credential, verify_issued
from flprov.pki import Anchors, create_key, create_request, not_before
from flprov.rpc.methods import RENEW
from flprov.store import Row, Store
from flprov.wire import pb
from flprov.wire.documents import RenewalStatus

logger = logging.getLogger(__name__)

_PATIENCE = 60.0  # seconds for an answer

Ask = Callable[..., Awaitable[Any]]  # as `Bulk.ask`


class Renewal:
    """Holds the certificate in use, and renews it. Made inside the event loop, once the state is locked."""

    def __init__(
        self,
        *,
        kit: Kit,
        state: Path,
        anchors: Callable[[], Anchors],
        ask: Ask,
        switch: Callable[[Credential], None],
        store: Store,
        clock: Clock,
        chance: random.Random | None = None,
    ) -> None:
        """Args:
            kit: the site's.
            state: where the renewed certificate is kept.
            anchors: the CAs that may have issued it, as believed at the moment.
            ask: makes a call over the live connection.
            switch: called with each new certificate, which is on the disk by then.
            store: for the site's own record of it.
            clock: says when it is due.
            chance: for the jitter.

        Raises:
            KitRefused: no certificate of this kit is valid.
        """
        self._kit = kit
        self._state = state
        self._anchors = anchors
        self._ask = ask
        self._switch = switch
        self._store = store
        self._clock = clock
        # Issued, and not in use yet. If only the disk or the clock is in the way, no other one is asked for.
        self._answer: Credential | None = None
        found = current_credential(kit, anchors=anchors(), now=clock.now(), state=state)
        self._renewing = Renewing(found, self._renew, clock=clock, chance=chance)
        self._in_use = found

    @property
    def credential(self) -> Credential:
        """The one in use."""
        return self._in_use

    @property
    def status(self) -> RenewalStatus:
        """For `site status`."""
        renewed = self._in_use.chain_pem != self._kit.chain_pem
        return RenewalStatus(
            due_at=self._renewing.due_at,
            last_at=self._in_use.issued_at if renewed else None,
            last_error=self._renewing.error,
            tries=self._renewing.tries,
            next_at=self._renewing.next_at,
        )

    def renew_now(self, reason: str) -> None:
        """The server asks for it."""
        logger.info("the server asks this site to renew its certificate: %s", reason[:200])
        self._renewing.ring()

    def connected(self) -> None:
        """The link is up again: what failed because it was down need not wait longer."""
        if self._renewing.error:
            self._renewing.ring()

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled."""
        await self._renewing.run()

    async def _renew(self) -> Credential:
        if self._in_use.not_after < self._clock.now():
            self._fall_back()
        if self._answer is None or self._answer.not_after < self._clock.now():
            self._answer = await self._ask_for_one()
        self._verify_time_has_come(self._answer)
        await asyncio.to_thread(store_credential, self._state, self._answer)
        credential, self._answer = self._answer, None
        self._in_use = credential
        self._switch(credential)
        await self._record(credential)
        return credential

    def _verify_time_has_come(self, answer: Credential) -> None:
        """A clock that is behind must not make the site ask for one certificate after the other."""
        now = self._clock.now()
        if now < answer.leaf.not_before:
            raise LocalError(  # which time heals
                f"the new certificate is not valid before {answer.leaf.not_before:%Y-%m-%d %H:%M:%S} UTC, and"
                f" this machine's clock says {now:%Y-%m-%d %H:%M:%S} UTC",
                hint="check the clock; the certificate is used as soon as it is valid",
            )

    def _fall_back(self) -> None:
        """To one that was issued before and lasts longer: somebody has asked for shorter lives since.

        Raises:
            KitRefused: there is none, so that no server could be asked; the message says the way back.
        """
        now = self._clock.now()
        found = current_credential(self._kit, anchors=self._anchors(), now=now, state=self._state)
        self._in_use = found
        self._switch(found)

    async def _ask_for_one(self) -> Credential:
        private = create_key()
        request = pb.RenewRequest(request=create_request(private))
        reply: pb.Issued = await self._ask(RENEW, request, timeout=_PATIENCE)
        now = max(self._clock.now(), not_before(reply.chain))
        return verify_issued(self._kit, reply.chain, private, anchors=self._anchors(), now=now)

    async def _record(self, credential: Credential) -> None:
        serial = f"{credential.leaf.serial:x}"
        row = Row(who="site", what="cert.renew", object=self._kit.name, data={"serial": serial})
        try:
            await self._store.commit([], row)
        except FlprovError as error:  # it was renewed all the same
            logger.warning("the new certificate is not in this site's own record: %s", error)
