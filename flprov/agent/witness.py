# SPDX-License-Identifier: Apache-2.0
"""The site as a witness of the server's log: it remembers one row of it, and signs that the row was so.

Whoever can write on the server's disk can rewrite the log with its hash chain. What this site has seen they
cannot change: a row that is not any more as it was, or is gone, is kept as a dispute and told again at each
connect. The site works on all the same; what to make of it is for people to decide.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from flprov._base import Clock, Tasks, from_document, from_iso, to_document, to_iso
from flprov.errors import FlprovError
from flprov.kits import Credential, Kit
from flprov.pki import sign
from flprov.store import Put, Row, Store
from flprov.wire import pb, witness_bytes
from flprov.wire.documents import Vouched, WitnessStatus

logger = logging.getLogger(__name__)

_KIND, _ID = "witness", "log"
_MOST_DISPUTES = 8  # the first ones are kept: they are nearest to what was done
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class _Receipt:
    """A row that this site has vouched for, with what it sent."""

    index: int
    digest: str
    at: str
    signature: str  # hex
    chain: str

    def message(self) -> pb.Witness:
        """For the server."""
        return pb.Witness(
            index=self.index,
            digest=self.digest,
            at=self.at,
            signature=bytes.fromhex(self.signature),
            chain=self.chain.encode(),
        )

    def vouched(self) -> Vouched:
        """For `site status`."""
        return Vouched(index=self.index, digest=self.digest, at=from_iso(self.at))


@dataclass(frozen=True, kw_only=True)
class _Dispute:
    """One that the log has otherwise now."""

    receipt: _Receipt
    found: str
    noticed_at: str
    remark: str = ""

    def vouched(self) -> Vouched:
        """For `site status`."""
        return replace(
            self.receipt.vouched(), found=self.found, noticed_at=from_iso(self.noticed_at), remark=self.remark
        )


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """What is on this site's disk."""

    newest: _Receipt | None = None
    disputes: tuple[_Dispute, ...] = field(default=())


class Witnessing:
    """Holds the newest row that was vouched for; `load` first, then `take` whatever the server sends."""

    def __init__(
        self,
        *,
        kit: Kit,
        store: Store,
        clock: Clock,
        credential: Callable[[], Credential],
        report: Callable[[pb.FromSite], None],
    ) -> None:
        """Args:
        kit: the site's.
        store: the site's own, where it remembers.
        clock: for the time of signing.
        credential: the certificate and key in use.
        report: sends to the server.
        """
        self._kit = kit
        self._store = store
        self._clock = clock
        self._credential = credential
        self._report = report
        self._memory = _Memory()
        self._session = 0
        self._asked: _Receipt | None = None  # of this session: what the server has to answer for
        self._tasks = Tasks("witness")
        self._turn = asyncio.Lock()

    def load(self) -> None:
        """Read what this site has vouched for."""
        found = self._store.get(_KIND, _ID)
        if found is not None:
            self._memory = from_document(_Memory, found)

    def begin(self) -> pb.Witness | None:
        """A new session: the newest row that this site has vouched for, for its Hello."""
        self._session += 1
        self._asked = self._memory.newest
        return self._asked.message() if self._asked else None

    @property
    def disputed(self) -> list[pb.Witness]:
        """For Hello: the rows that the log had otherwise later."""
        return [dispute.receipt.message() for dispute in self._memory.disputes]

    @property
    def status(self) -> WitnessStatus:
        """For `site status`."""
        newest = self._memory.newest
        return WitnessStatus(
            newest=newest.vouched() if newest else None,
            disputed=tuple(dispute.vouched() for dispute in self._memory.disputes),
        )

    def take(self, head: pb.LogHead) -> None:
        """The server says where its log ends, and what it says today of the row that was vouched for last."""
        self._tasks.spawn(self._heed(head, self._session))

    async def close(self) -> None:
        """End what is under way."""
        await self._tasks.close()

    async def _heed(self, head: pb.LogHead, session: int) -> None:
        async with self._turn:  # one after the other, in the order in which they came
            if session != self._session:
                return  # it answers what an earlier session has asked
            try:
                await self._vouch(head, session)
            except FlprovError as error:
                logger.warning("the server's log was not vouched for: %s", error)

    async def _vouch(self, head: pb.LogHead, session: int) -> None:
        dispute = self._compare(head)
        if dispute is None and self._has_signed(head):
            return
        disputes = (*self._memory.disputes, *([dispute] if dispute else []))[:_MOST_DISPUTES]
        memory = _Memory(newest=self._sign(head) if head.index else None, disputes=disputes)
        row = self._row(dispute) if dispute else None
        await self._store.commit([Put(_KIND, _ID, to_document(memory))], row)
        self._memory = memory
        if memory.newest is not None and session == self._session:
            self._asked = memory.newest
            self._report(pb.FromSite(witness=memory.newest.message()))

    def _has_signed(self, head: pb.LogHead) -> bool:
        known = self._asked
        return known is not None and (head.index, head.digest) == (known.index, known.digest)

    def _compare(self, head: pb.LogHead) -> _Dispute | None:
        """A dispute, unless the row that was vouched for last is still what it was."""
        known = self._asked
        if known is None:
            return None
        if (head.witnessed_index, head.witnessed_digest) == (known.index, known.digest):
            return None
        found = head.witnessed_digest if head.witnessed_index == known.index else ""
        dispute = _Dispute(
            receipt=known,
            found=found if _DIGEST.fullmatch(found) else "",
            noticed_at=to_iso(self._clock.now()),
            remark="".join(c for c in head.remark[:500] if c.isprintable()),
        )
        logger.warning("the server's log was rewritten: %s", _describe(dispute))
        return dispute

    def _sign(self, head: pb.LogHead) -> _Receipt:
        at, credential = to_iso(self._clock.now()), self._credential()
        try:
            payload = witness_bytes(self._kit.project_id, head.index, head.digest, at)
        except ValueError as error:
            raise FlprovError(f"the server sent no head of a log: {error}") from error
        return _Receipt(
            index=head.index,
            digest=head.digest,
            at=at,
            signature=sign(credential.private_pem, payload).hex(),
            chain=credential.chain_pem.decode(),
        )

    def _row(self, dispute: _Dispute) -> Row:
        return Row(
            who="site",
            what="log.conflict",
            object=self._kit.server,
            outcome="differs" if dispute.found else "missing",
            reason=_describe(dispute),
            data={"index": dispute.receipt.index, "vouched": dispute.receipt.digest, "found": dispute.found},
        )


def _describe(dispute: _Dispute) -> str:
    receipt = dispute.receipt
    now = f"and now it has {dispute.found} there" if dispute.found else "and now it has no such row"
    why = f"; it says: {dispute.remark}" if dispute.remark else ""
    return f"row {receipt.index} had the digest {receipt.digest} on {receipt.at}, {now}{why}"
