# SPDX-License-Identifier: Apache-2.0
"""Trust bundles: shown, handed out, published."""

from __future__ import annotations

from flprov.errors import LocalError
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.identities.surroundings import Surroundings
from flprov.wire import Message


class TrustService:
    """Trust bundles: shown, handed out, published."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    def table(self) -> dict[m.Method, Handler]:
        """The handlers, by method."""
        return {m.FETCH_TRUST: _absent, m.SHOW_TRUST: _absent, m.PUBLISH_TRUST: _absent}


async def _absent(call: Call, request: Message) -> Message:
    raise LocalError(f"{call.method.path} has no handler yet")
