# SPDX-License-Identifier: Apache-2.0
"""The gate of every call: may this certificate come in at all? And the book's eye: what is new is noted.

Nothing here waits: a certificate that was not seen before is written down beside the call.
"""

from __future__ import annotations

import logging

from flprov._base import Tasks
from flprov.errors import FlprovError
from flprov.pki import Identity, Kind, Leaf
from flprov.server.identities.book import describe, put
from flprov.server.identities.surroundings import Surroundings
from flprov.store import Row

logger = logging.getLogger(__name__)

_MOST_WAITING = 1000  # certificates that are being written down; more are noted at their next call


class Gate:
    """`Gate(around)(caller, leaf)`: what the transport asks on each call."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._writing: set[str] = set()
        self._tasks = Tasks("certificates seen")
        around.settled = self.close

    def __call__(self, caller: Identity, leaf: Leaf | None) -> None:
        """Nothing, if the caller may come in.

        Raises:
            IdentityRefused: not enrolled, locked, removed or revoked.
        """
        self._around.registry.verify_enrolled(caller, leaf)
        self._around.trust.verify_not_listed(caller, leaf)
        if caller.kind is Kind.PERSON:
            self._around.last_seen[caller.uri] = self._around.clock.now()
        if leaf is not None and caller.kind in (Kind.SITE, Kind.PERSON):
            self._note(leaf)

    def _note(self, leaf: Leaf) -> None:
        serial = f"{leaf.serial:x}"
        if self._around.book.knows(serial) or serial in self._writing or len(self._writing) >= _MOST_WAITING:
            return
        self._writing.add(serial)
        self._tasks.spawn(self._write(leaf, serial))

    async def _write(self, leaf: Leaf, serial: str) -> None:
        record = describe(leaf, "kit")  # had this server issued it, the book would know
        row = Row(
            who=leaf.identity.uri,
            what="cert.seen",
            object=leaf.identity.name,
            data={"serial": serial, "not_after": record.not_after.isoformat()},
        )
        try:
            await self._around.store.commit([put(record)], row)
            self._around.book.add(record)
        except FlprovError as error:
            logger.warning("a certificate that was seen could not be written down: %s", error)
        finally:
            self._writing.discard(serial)

    async def close(self) -> None:
        """Wait for what is being written."""
        await self._tasks.settle()
