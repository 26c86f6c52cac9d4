# SPDX-License-Identifier: Apache-2.0
"""The sites as witnesses of the log: each is told its end now and then, and signs it.

Who can write on the server's disk can rewrite the log and its hash chain. What the sites have signed cannot
be rewritten with it: a row that a site vouched for and that is not as it was gives it away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from flprov._base import Clock, from_document
from flprov.errors import FlprovError, IdentityRefused, LocalError
from flprov.pki import Anchors
from flprov.server.log.receipts import (
    DISPUTE,
    RECEIPT,
    digest_at,
    dispute_key,
    find_remark,
    put_dispute,
    put_receipt,
    verify_receipt,
)
from flprov.server.sessions import Session, Sessions
from flprov.store import START, Row, Store
from flprov.wire import pb
from flprov.wire.documents import DisputeDocument, LogWarning, ReceiptDocument, WitnessListDocument

logger = logging.getLogger(__name__)

SPACING = 10.0  # seconds between two heads for a site: 2 KB each, at 64 kbit/s a fortieth of the link
AT_ONCE = 64  # sites that are asked in one go; of more, the others next: each answer is a signature to verify
_MOST_DISPUTES = 20  # of one site: it could make up as many as it likes
_EXPLAINED = timedelta(days=7)  # so long `status` tells of rows that were lost when a backup was restored

OnRefusal = Callable[[Session, IdentityRefused], None]


@dataclass
class _Witness:
    """A connected site."""

    session: Session
    vouched: int  # the row that it vouched for last; 0: none
    asked: int  # the last head that it was sent
    under_way: bool = True  # and it has not answered yet


class Witnesses:
    """What the sites have vouched for, and the asking."""

    def __init__(
        self,
        *,
        store: Store,
        sessions: Sessions,
        clock: Clock,
        project_id: str,
        anchors: Callable[[], Anchors],
        refuse: OnRefusal,
        spacing: float = SPACING,
    ) -> None:
        """Args:
        store: with the log.
        sessions: the sites that are connected.
        clock: for the spacing.
        project_id: part of what is signed.
        anchors: the CAs of sites, as of now.
        refuse: told of what a site sent as a receipt and is none.
        spacing: seconds between two heads for a site.
        """
        self._store = store
        self._sessions = sessions
        self._clock = clock
        self._project_id = project_id
        self._anchors = anchors
        self._refuse = refuse
        self._spacing = spacing
        self._receipts: dict[str, ReceiptDocument] = {}
        self._disputes: dict[str, DisputeDocument] = {}
        self._live: dict[str, _Witness] = {}  # who was asked longest ago comes first
        self._told = 0  # the head of the last round of asking
        sessions.listen(self._note_session)

    def load(self) -> None:
        """Read what the sites have signed."""
        found = self._store.load(RECEIPT)
        self._receipts = {site: from_document(ReceiptDocument, value) for site, value in found.items()}
        found = self._store.load(DISPUTE)
        self._disputes = {key: from_document(DisputeDocument, value) for key, value in found.items()}

    # ---- asking ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Tell every connected site where the log ends whenever it has grown, but not too often."""
        while True:
            try:
                self._told = await self._store.wait_beyond(self._told)
            except LocalError:
                return  # the store was closed
            try:
                self._ask_some()
            except LocalError as error:  # the disk did not give a row; the next one asks again
                logger.warning("the sites could not be asked to vouch for the log: %s", error)
            await self._clock.sleep(self._spacing)

    def _ask_some(self) -> None:
        free = [witness for witness in self._live.values() if not witness.under_way]
        for witness in free[:AT_ONCE]:
            self._ask(witness.session)

    def _ask(self, session: Session) -> None:
        """One question at a time; whoever is slow hears of the newest head when it has answered."""
        witness = self._live.get(session.name)
        if witness is None or witness.session is not session or witness.under_way:
            return
        if witness.asked < self._store.head:
            head = self._head(witness.vouched, self._store.head)
            self._live[session.name] = self._live.pop(session.name)  # to the end of the queue
            witness.under_way, witness.asked = True, head.index
            session.send(pb.ToSite(head=head))

    def _is_as_said(self, witness: pb.Witness) -> bool:
        return digest_at(self._store, witness.index) == witness.digest

    def _head(self, vouched: int, index: int) -> pb.LogHead:
        return pb.LogHead(
            index=index,
            digest=digest_at(self._store, index) or START.digest,
            witnessed_index=vouched,
            witnessed_digest=digest_at(self._store, vouched),
        )

    def _note_session(self, session: Session, connected: bool) -> None:
        if not connected:
            self._live.pop(session.name, None)

    # ---- answers ---------------------------------------------------------------------------

    async def greet(self, session: Session) -> pb.LogHead:
        """What to tell a site in its Welcome; what it remembers of the log is compared first."""
        hello = session.hello
        vouched = hello.witness.index if hello.HasField("witness") else 0
        remark = ""
        for witness in [*([hello.witness] if vouched else []), *hello.disputed[:_MOST_DISPUTES]]:
            remark = await self._compare(session, witness) or remark
        many = len(self._live) >= AT_ONCE and (not vouched or self._is_as_said(hello.witness))
        asked = vouched if many else self._store.head  # one of many has its turn, and need not sign just now
        self._live[session.name] = _Witness(
            session=session, vouched=vouched, asked=asked, under_way=asked != vouched
        )
        head = self._head(vouched, asked)
        head.remark = remark
        return head

    async def take(self, session: Session, witness: pb.Witness) -> None:
        """A site has answered."""
        known = self._live.get(session.name)
        if known is None or known.session is not session or not known.under_way:
            return  # nobody has asked
        if not await self._believe(session, witness):
            return  # and is not asked again as long as it is connected
        known.vouched = witness.index
        known.under_way = False
        if known.asked < self._told and len(self._live) <= AT_ONCE:  # of more, each has its turn
            self._ask(session)

    async def _believe(self, session: Session, witness: pb.Witness) -> bool:
        receipt = self._verified(session, witness)
        if receipt is None:
            return False
        if digest_at(self._store, receipt.index) != receipt.digest:
            await self._dispute(session, receipt)
            return True
        await self._keep(receipt)
        return True

    def _verified(self, session: Session, witness: pb.Witness) -> ReceiptDocument | None:
        try:
            return verify_receipt(
                witness, session.identity, project_id=self._project_id, anchors=self._anchors()
            )
        except IdentityRefused as error:
            logger.warning("site %s: %s", session.name, error)
            self._refuse(session, error)
            return None

    async def _keep(self, receipt: ReceiptDocument) -> None:
        known = self._receipts.get(receipt.site)
        if known is not None and known.index > receipt.index and self._stands(known):
            return
        try:
            await self._store.commit([put_receipt(receipt)], None)
        except FlprovError as error:  # the site vouches again after the next rows
            logger.warning("what site %s vouched for could not be kept: %s", receipt.site, error)
            return
        self._receipts[receipt.site] = receipt

    def _stands(self, receipt: ReceiptDocument) -> bool:
        return digest_at(self._store, receipt.index) == receipt.digest

    # ---- disputes --------------------------------------------------------------------------

    async def _compare(self, session: Session, witness: pb.Witness) -> str:
        """The remark, if the log has this row otherwise now."""
        known = self._receipts.get(session.name)
        if known is not None and _is_same(known, session, witness) and self._stands(known):
            return ""  # verified when it was taken: a thousand sites that come back say nothing else
        receipt = self._verified(session, witness)
        if receipt is None:
            return ""
        if self._stands(receipt):
            await self._keep(receipt)
            return ""
        return await self._dispute(session, receipt)

    async def _dispute(self, session: Session, receipt: ReceiptDocument) -> str:
        remark = await find_remark(self._store, receipt)
        mine = sum(dispute.receipt.site == receipt.site for dispute in self._disputes.values())
        if dispute_key(receipt) in self._disputes or mine >= _MOST_DISPUTES:
            return remark
        dispute = DisputeDocument(
            receipt=receipt,
            found=digest_at(self._store, receipt.index),
            noticed_at=self._clock.now(),
            remark=remark,
        )
        logger.warning("the log: %s", describe(dispute))
        row = Row(
            who=session.identity.uri,
            what="log.conflict",
            object=receipt.site,
            outcome="differs" if dispute.found else "missing",
            reason=describe(dispute),
            data={"index": receipt.index, "vouched": receipt.digest, "found": dispute.found},
        )
        try:
            await self._store.commit([put_dispute(dispute)], row, urgent=True)
        except FlprovError as error:  # the site says it again when it connects next
            logger.warning("a conflict about the log could not be recorded: %s", error)
        else:
            self._disputes[dispute_key(receipt)] = dispute
        return remark

    # ---- showing ---------------------------------------------------------------------------

    def document(self) -> WitnessListDocument:
        """Everything that was signed, for whoever verifies it."""
        index = self._store.head
        return WitnessListDocument(
            project_id=self._project_id,
            head=index,
            digest=digest_at(self._store, index) or START.digest,
            receipts=tuple(receipt for _, receipt in sorted(self._receipts.items())),
            disputes=tuple(dispute for _, dispute in sorted(self._disputes.items())),
        )

    def warnings(self) -> tuple[LogWarning, ...]:
        """What `status` says about the log."""
        recent = self._clock.now() - _EXPLAINED
        return tuple(
            LogWarning(
                text=describe(dispute),
                at=dispute.noticed_at,
                hint="flprov audit verify",
                site=dispute.receipt.site,
            )
            for _, dispute in sorted(self._disputes.items())
            if not dispute.remark or dispute.noticed_at >= recent
        )


def _is_same(receipt: ReceiptDocument, session: Session, witness: pb.Witness) -> bool:
    """Whether the site says once more what it has signed before."""
    said = (session.identity.uri, witness.index, witness.digest, witness.signature.hex())
    return said == (receipt.identity, receipt.index, receipt.digest, receipt.signature)


def describe(dispute: DisputeDocument) -> str:
    """One sentence."""
    receipt = dispute.receipt
    now = "has another row there now" if dispute.found else "has no such row now that can be read"
    guess = ": it was rewritten or put back from an old copy, or the site says what is not so"
    why = f"; {dispute.remark}" if dispute.remark else guess
    return (
        f"site {receipt.site} vouched for row {receipt.index} of the log on"
        f" {receipt.at:%Y-%m-%d %H:%M:%S} UTC, and the log {now}{why}"
    )
