# SPDX-License-Identifier: Apache-2.0
"""Renewals: of sites over their live connection, and of the server itself."""

from __future__ import annotations

from flprov.errors import LocalError
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.identities.surroundings import Surroundings
from flprov.wire import Message


class RenewalService:
    """Renewals: of sites over their live connection, and of the server itself."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {m.RENEW: _absent, m.RENEW_CERTIFICATE: _absent}


async def _absent(call: Call, request: Message) -> Message:
    raise LocalError(f"{call.method.path} has no handler yet")
