# SPDX-License-Identifier: Apache-2.0
"""The control stream: dial, say Hello, beat, obey; and dial again with jitter when it breaks."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from flprov._base import Clock, backoff, canonical_json
from flprov.errors import FlprovError, ProtocolError, Refused, SiteLocked
from flprov.rpc import Connection
from flprov.rpc.methods import CONTROL
from flprov.wire import pb, verify_protocol
from flprov.wire.documents import Vitals

logger = logging.getLogger(__name__)


class LinkState(enum.Enum):
    """Where the link to the server is."""

    CONNECTING = "connecting"  # dialling, or waiting to dial again
    CONNECTED = "connected"  # welcomed; beats flow
    REFUSED = "refused"  # the server answered and said no
    STOPPED = "stopped"  # the agent is stopping


@dataclass(frozen=True, kw_only=True)
class Link:
    """What `site status` shows of the connection."""

    state: LinkState
    since: datetime
    reason: str = ""
    tries: int = 0


class Control:
    """The site's side of the one stream."""

    def __init__(
        self,
        *,
        connect: Callable[[], Connection],
        hello: Callable[[], pb.Hello],
        vitals: Callable[[], Awaitable[Vitals]],
        welcome: Callable[[pb.Welcome], None],
        obey: Callable[[pb.ToSite], None],
        clock: Clock,
    ) -> None:
        self._connect = connect
        self._hello = hello
        self._vitals = vitals
        self._welcome = welcome
        self._obey = obey
        self._clock = clock
        self._outgoing: asyncio.Queue[pb.FromSite] | None = None
        self._welcomed = False
        self._was_connected = False
        self.link = Link(state=LinkState.CONNECTING, since=clock.now())

    def report(self, message: pb.FromSite) -> None:
        """Send to the server if connected. What matters is said again after a reconnect."""
        if self._outgoing is not None:
            self._outgoing.put_nowait(message)

    async def run(self) -> None:
        """Hold the stream until cancelled.

        Raises:
            Refused: the server said no before it ever said yes, so that waiting will not help. A lock is
                another matter: it can be opened at any time.
        """
        waits, tries = backoff(), 0
        while True:
            try:
                await self._session()
            except Refused as error:
                if not self._welcomed and not isinstance(error, SiteLocked):
                    raise
                self._note(LinkState.REFUSED, _with_hint(error), tries)
            except FlprovError as error:
                tries += 1
                self._note(LinkState.CONNECTING, str(error), tries)
            else:
                self._note(LinkState.CONNECTING, "the server closed the stream", tries)
            if self._was_connected:
                waits, tries = backoff(), 0
            self._was_connected = False
            await self._clock.sleep(next(waits))

    def _note(self, state: LinkState, reason: str, tries: int) -> None:
        since = self.link.since if state is self.link.state else self._clock.now()
        if (state, reason) != (self.link.state, self.link.reason):
            logger.info("link to the server: %s%s", state.value, f": {reason}" if reason else "")
        self.link = Link(state=state, since=since, reason=reason, tries=tries)

    async def _session(self) -> None:
        connection = self._connect()
        try:
            outgoing: asyncio.Queue[pb.FromSite] = asyncio.Queue()
            outgoing.put_nowait(pb.FromSite(hello=self._hello()))
            replies = connection.stream(CONTROL, _drain(outgoing))
            first = await anext(replies, None)
            if first is None or first.WhichOneof("body") != "welcome":
                raise ProtocolError("the server did not begin with Welcome")
            verify_protocol(first.welcome.protocol, peer="the server")
            await self._hold(first.welcome, replies, outgoing)
        finally:
            self._outgoing = None
            await connection.close()

    async def _hold(
        self, welcome: pb.Welcome, replies: AsyncIterator[pb.ToSite], outgoing: asyncio.Queue[pb.FromSite]
    ) -> None:
        self._outgoing = outgoing
        self._welcomed = self._was_connected = True
        self._note(LinkState.CONNECTED, "", 0)
        beats = asyncio.create_task(self._beat(welcome.heartbeat_seconds), name="heartbeat")
        try:
            self._welcome(welcome)
            async for message in replies:
                self._obey(message)
        finally:
            beats.cancel()
            await asyncio.wait([beats])  # not `await beats`: its end must not swallow our own cancellation

    async def _beat(self, seconds: float) -> None:
        while True:
            try:
                vitals = await self._vitals()
                self.report(pb.FromSite(heartbeat=pb.Heartbeat(vitals=canonical_json(vitals))))
            except (FlprovError, OSError):  # a disk that answers with EIO, say: the next beat tries again
                logger.warning("the state of this machine could not be read", exc_info=True)
            await self._clock.sleep(min(max(0.1, seconds), 60.0))  # in this order: NaN becomes 0.1


def _with_hint(error: FlprovError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)


async def _drain(outgoing: asyncio.Queue[pb.FromSite]) -> AsyncIterator[pb.FromSite]:
    while True:
        yield await outgoing.get()
