# SPDX-License-Identifier: Apache-2.0
"""What `events` and `audit` print: rows of the server's log, and what sites have vouched for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from flprov._base import dataclass

Data = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class EventDocument:
    """One row of the log, as `events --json` prints it."""

    index: int  # its place in the log; `events --from` takes it
    at: datetime
    who: str  # an identity's URI; "server" for what it did of its own accord
    what: str  # the verb: "job.submit"
    object: str  # what it was done to: a job id, a site's name
    outcome: str
    reason: str
    data: Data = field(default_factory=dict)  # what else belongs to it, by verb


@dataclass(frozen=True, kw_only=True)
class EventListDocument:
    """`events --json`."""

    events: tuple[EventDocument, ...]
    next: int = 0  # where to go on: the index after the last row that was looked at


@dataclass(frozen=True, kw_only=True)
class AuditRowDocument:
    """One row of the log with its place in the hash chain: a line of `audit export`."""

    index: int
    at: datetime
    who: str
    what: str
    object: str
    outcome: str
    reason: str
    data: Data
    previous: str  # `digest` of the row before; 64 zeros before the first
    digest: str  # BLAKE3-256 (hex) over `previous` and the canonical JSON of the row


@dataclass(frozen=True, kw_only=True)
class AuditListDocument:
    """`audit ls --json`."""

    rows: tuple[AuditRowDocument, ...]
    head: int = 0  # index of the last row of the log


@dataclass(frozen=True, kw_only=True)
class ReceiptDocument:
    """A site's signed word that at this index the log had this digest."""

    site: str
    identity: str  # the site's URI
    index: int
    digest: str
    at: datetime  # when it was signed, by the site's clock
    signature: str  # hex; ECDSA over flprov.wire.witness_bytes(...)
    chain: str  # the certificate it was signed with, and the CA that issued that one, PEM


@dataclass(frozen=True, kw_only=True)
class DisputeDocument:
    """A site had vouched for a row that the log has otherwise now, or not at all."""

    receipt: ReceiptDocument
    found: str  # digest of that row when this was noticed; empty: there was no such row
    noticed_at: datetime  # by the server's clock
    remark: str = ""  # what the log itself says about it: it was restored from a backup


@dataclass(frozen=True, kw_only=True)
class WitnessListDocument:
    """What the server has of its witnesses; `audit verify` believes none of it unchecked."""

    project_id: str
    head: int
    digest: str  # of row `head`; 64 zeros when there is none
    receipts: tuple[ReceiptDocument, ...] = ()  # the newest of each site
    disputes: tuple[DisputeDocument, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WitnessVerdict:
    """One receipt, compared with the log."""

    site: str
    index: int  # the row it vouches for
    at: datetime
    vouched: str  # the digest that the site signed
    found: str  # the digest that the log has there; empty: there is no such row
    verdict: str  # agrees | differs | missing | restored | forged | unknown: under a CA not trusted now
    text: str = ""  # what is wrong, in words


@dataclass(frozen=True, kw_only=True)
class AuditVerdictDocument:
    """`audit verify --json`."""

    source: str  # the server's name, or the file
    ok: bool
    rows: int  # rows read, up to the first bad one
    head: int  # index of the last good row
    digest: str  # its digest: write it down, and the log up to here can never be rewritten unnoticed
    first_bad: int | None = None  # index of the first row that is not as it was written
    problem: str = ""  # what is wrong with it
    witnesses: tuple[WitnessVerdict, ...] = ()
    agreed: int | None = None  # the newest row up to which no witness disagrees; None: nobody has vouched
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditExportDocument:
    """`audit export --json`."""

    file: str
    rows: int  # in the file
    added: int  # by this command
    head: int  # index of the last
    digest: str  # of the last
    bytes: int
