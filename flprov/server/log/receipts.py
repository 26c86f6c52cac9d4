# SPDX-License-Identifier: Apache-2.0
"""What a site signed about a row of the log, verified and compared with the log as it is."""

from __future__ import annotations

from datetime import timedelta

from flprov._base import from_iso, to_document
from flprov.errors import IdentityRefused, StateDamaged
from flprov.pki import Anchors, Identity, Kind, verify_signed
from flprov.store import Change, Put, RowFilter, Store
from flprov.wire import pb, witness_bytes
from flprov.wire.documents import DisputeDocument, ReceiptDocument

RECEIPT, DISPUTE = "witness", "witness-dispute"  # kinds of records
CLOCKS_APART = timedelta(minutes=10)  # of a site and the server


def verify_receipt(
    witness: pb.Witness, site: Identity, *, project_id: str, anchors: Anchors
) -> ReceiptDocument:
    """The receipt, if this site has signed it with a certificate that was valid when it did.

    Raises:
        IdentityRefused: somebody else signed it, or it is no receipt.
    """
    try:
        at = from_iso(witness.at)
        payload = witness_bytes(project_id, witness.index, witness.digest, witness.at)
    except (ValueError, OverflowError) as error:
        raise IdentityRefused(f"that vouches for no row of a log: {error}") from error
    signer = verify_signed(payload, witness.signature, witness.chain, anchors, now=at, kinds=[Kind.SITE])
    if signer != site:
        raise IdentityRefused(f"{site} sent a receipt for a row of the log that {signer} has signed")
    return ReceiptDocument(
        site=site.name,
        identity=site.uri,
        index=witness.index,
        digest=witness.digest,
        at=at,
        signature=witness.signature.hex(),
        chain=witness.chain.decode("ascii"),
    )


def digest_at(store: Store, index: int) -> str:
    """The digest of a row; empty when the log has no such row, or nobody can read it any more."""
    try:
        found = store.rows(index, 1) if 0 < index <= store.head else []
    except StateDamaged:
        return ""
    return found[0].digest if found and found[0].index == index else ""


async def find_remark(store: Store, receipt: ReceiptDocument) -> str:
    """What the log says about a row that is not as it was: that the server was restored since."""
    for found in await store.find(RowFilter(what="server.restore"), limit=1000):
        if found.index <= receipt.index and receipt.at <= found.at + CLOCKS_APART:
            who = found.row.who.rpartition("/")[2]
            return (
                f"row {found.index} says that the server was restored from a backup"
                f" on {found.at:%Y-%m-%d %H:%M:%S} UTC by {who}"
            )
    return ""


def put_receipt(receipt: ReceiptDocument) -> Change:
    """The change that keeps a site's newest receipt."""
    return Put(RECEIPT, receipt.site, to_document(receipt))


def dispute_key(receipt: ReceiptDocument) -> str:
    """Its id in the store: said once, however often the site says it."""
    return f"{receipt.site}/{receipt.index:020d}/{receipt.digest}"


def put_dispute(dispute: DisputeDocument) -> Change:
    """The change that keeps a dispute."""
    return Put(DISPUTE, dispute_key(dispute.receipt), to_document(dispute))
