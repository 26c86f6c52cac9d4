# SPDX-License-Identifier: Apache-2.0
"""Asking a party of a network how it is, on its own socket: a record could be stale."""

from __future__ import annotations

from flprov._base import parse_json
from flprov.errors import Unavailable
from flprov.poc.place import Party, Place, Record
from flprov.poc.states import PartyState


def ask(place: Place, record: Record, party: Party) -> PartyState:
    """What this server or site says of itself now."""
    process = record.alive.get(party.name)
    state, reason, metrics = _ask(place, party) or ("starting" if process else "stopped", "", "")
    return PartyState(
        name=party.name,
        kind=party.kind,
        state=state,
        pid=process.pid if process else None,
        kit=str(place.kit(party.name)),
        log=str(place.log(party.name)),
        reason=reason,
        metrics=metrics,
    )


def _ask(place: Place, party: Party) -> tuple[str, str, str] | None:
    from flprov.rpc import ask_local  # late: it loads asyncio

    try:
        answer = parse_json(ask_local(place.local(party.name) / "state", what=party.name, hint=""))
    except (Unavailable, ValueError):  # the latter: it ended while it spoke
        return None
    metrics = str(answer.get("metrics", ""))
    if party.kind == "server":
        return "serving", "", metrics
    reason = "" if answer["connected"] else str(answer["link"]["reason"])
    return "connected" if answer["connected"] else "connecting", reason, metrics
