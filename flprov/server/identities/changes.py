# SPDX-License-Identifier: Apache-2.0
"""How a change of a party is logged and answered."""

from __future__ import annotations

from collections.abc import Sequence

from flprov._base import canonical_json
from flprov.pki import Identity
from flprov.rpc import Call
from flprov.server.revocations import Withdrawal
from flprov.store import Row
from flprov.wire import documents as doc
from flprov.wire import pb

LONGEST_REASON = 200  # characters


def change_row(call: Call, what: str, name: str, reason: str, **data: object) -> Row:
    """What the log says of it."""
    return Row(who=call.caller.uri, what=what, object=name, reason=reason, data=data)


def changed(
    identity: Identity,
    change: str,
    *,
    done: bool = True,
    reason: str = "",
    withdrawals: Sequence[Withdrawal] = (),
    ended: int = 0,
    notes: tuple[str, ...] = (),
) -> pb.Document:
    """What the caller is told."""
    cutoffs = {w.cutoff.identity for w in withdrawals if w.cutoff is not None}
    return document(
        doc.PartyChangeDocument(
            name=identity.name,
            kind=identity.kind.value,
            change=change,
            changed=done,
            reason=reason,
            identities=tuple(sorted(cutoffs | {entry.identity for w in withdrawals for entry in w.serials})),
            serials=tuple(entry.serial for w in withdrawals for entry in w.serials),
            ended=ended,
            notes=tuple(note for note in notes if note),
        )
    )


def document(value: object) -> pb.Document:
    """A value as it travels."""
    return pb.Document(json=canonical_json(value))
