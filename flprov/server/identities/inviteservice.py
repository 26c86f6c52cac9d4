# SPDX-License-Identifier: Apache-2.0
"""Invites: made, listed, decided on; and the one call that they are for."""

from __future__ import annotations

from flprov.errors import LocalError
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.identities.surroundings import Surroundings
from flprov.wire import Message


class InviteService:
    """Invites: made, listed, decided on; and the one call that they are for."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {
            m.JOIN: _absent,
            m.CREATE_INVITE: _absent,
            m.LIST_INVITES: _absent,
            m.DECIDE_INVITE: _absent,
            m.RELAY_JOIN: _absent,
        }


async def _absent(call: Call, request: Message) -> Message:
    raise LocalError(f"{call.method.path} has no handler yet")
