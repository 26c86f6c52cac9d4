# SPDX-License-Identifier: Apache-2.0
"""Sites and people: added, locked, removed; their certificates listed and revoked."""

from __future__ import annotations

from flprov.errors import LocalError
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.identities.surroundings import Surroundings
from flprov.wire import Message


class PartyService:
    """Sites and people: added, locked, removed; their certificates listed and revoked."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.ADD_SITE: _absent,
            m.REMOVE_SITE: _absent,
            m.LOCK_SITE: _absent,
            m.UNLOCK_SITE: _absent,
            m.LIST_PEOPLE: _absent,
            m.REMOVE_PERSON: _absent,
            m.LIST_CERTIFICATES: _absent,
            m.REVOKE_CERTIFICATE: _absent,
            m.EXPORT_CRLS: _absent,
        }


async def _absent(call: Call, request: Message) -> Message:
    raise LocalError(f"{call.method.path} has no handler yet")
