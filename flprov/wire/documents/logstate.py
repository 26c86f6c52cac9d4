# SPDX-License-Identifier: Apache-2.0
"""What `status` says of the log: who was refused lately, what is wrong with it, for what a site vouches."""

from __future__ import annotations

from datetime import datetime

from flprov._base import dataclass


@dataclass(frozen=True, kw_only=True)
class RefusedDocument:
    """Somebody whose calls were refused lately."""

    who: str  # an identity's URI; "unknown" when the certificate itself was refused
    what: str  # the call
    reason: str  # of the newest
    first: datetime
    last: datetime
    count: int
    looks_like: str = ""  # name of the enrolled site that it may be or mean to be; a guess, never more
    claims: str = ""  # the identity that a refused certificate spells, which proves nothing


@dataclass(frozen=True, kw_only=True)
class LogWarning:
    """Something is wrong with the log, for `status`."""

    text: str  # one sentence
    at: datetime
    hint: str = ""
    site: str = ""  # the witness


@dataclass(frozen=True, kw_only=True)
class Vouched:
    """A row of the server's log that a site has vouched for, as the site remembers it."""

    index: int
    digest: str
    at: datetime
    found: str = ""  # of one in dispute: the digest that the log had later; empty: it had no such row
    noticed_at: datetime | None = None
    remark: str = ""  # what the server said about it


@dataclass(frozen=True, kw_only=True)
class WitnessStatus:
    """`site status KIT`: this site as a witness of the server's log."""

    newest: Vouched | None = None
    disputed: tuple[Vouched, ...] = ()  # rows that the server's log has otherwise now
