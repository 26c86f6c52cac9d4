# SPDX-License-Identifier: Apache-2.0
"""What a restored server knows about having been restored, until an admin has looked and enabled it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flprov._base import from_document, to_document
from flprov.store import Change, Delete, Put, Store

_RECORD = ("server", "restored")

CHECK = (
    "sites that were locked, removed or added since the backup: flprov site ls",
    "certificates that were revoked since and may count again: flprov cert ls, flprov cert revoke",
    "people who were removed since: flprov user ls, flprov user rm",
    "invites that were used or taken back since and may be open again: flprov invite ls",
    "drained sites: flprov site ls",
    "jobs: those that were submitted since are gone, those that were aborted since go on: flprov job ls",
    "a rotation of CAs that was under way: flprov ca rotate status",
)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """That this state came out of a backup."""

    at: datetime
    by: str  # the user of this machine who did it
    backup_made_at: datetime
    backup_index: int  # of the last row in the backup
    lost_index: int = 0  # the last row of the state that was replaced; 0: not known
    forgotten: tuple[str, ...] = ()  # what that state says was decided since, in words


def put_restored(restored: Restored) -> Put:
    """The change that keeps it."""
    return Put(*_RECORD, to_document(restored))


def forget_restore() -> list[Change]:
    """The change with which an admin has looked."""
    return [Delete(*_RECORD)]


def find_restored(store: Store) -> Restored | None:
    """That the state was restored and nobody has enabled the server since."""
    found = store.get(*_RECORD)
    return from_document(Restored, found) if found else None


def restore_notes(store: Store) -> tuple[str, ...]:
    """What `status` says of it; nothing once an admin has enabled the server."""
    found = find_restored(store)
    if found is None:
        return ()
    known = [f"it happened after the backup: {line}" for line in found.forgotten]
    made = f"{found.backup_made_at:%Y-%m-%d %H:%M} UTC (row {found.backup_index})"
    return (
        f"restored on {found.at:%Y-%m-%d %H:%M} UTC from a backup of {made}: what was decided after that is"
        " forgotten, so no job starts until you have looked and typed: flprov server enable",
        *known,
        *(f"look at {line}" for line in CHECK),
    )
