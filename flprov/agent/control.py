# SPDX-License-Identifier: Apache-2.0
"""The control stream: dial, say Hello, beat, obey; and dial again with jitter when it breaks.

Only what time can heal is tried again, and each try says why and which one it is. An identity that is
refused ends the agent whenever that comes, and so does what only another configuration or another version
can change. A lock goes by itself.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from flprov._base import Clock, backoff, canonical_json, sleep_unless
from flprov.agent.outbox import Outbox
from flprov.errors import FlprovError, Nature, ProtocolError, Refused, ServerUnavailable
from flprov.rpc import Connection
from flprov.rpc.methods import CONTROL
from flprov.wire import pb, verify_protocol
from flprov.wire.documents import Vitals

logger = logging.getLogger(__name__)

# A dead link is found by HTTP/2 pings within half a minute, however slow it is. This is for a server that
# answers those and does not get to its Welcome, which takes one small write to its disk.
PATIENCE = 120.0
_SOON, _LATE = 5.0, 30.0  # seconds between two dials, at most
_SOON_TRIES = 200  # some ten minutes; 200 sites with jitter are 70 dials a second then
_FEW = 10.0  # seconds between two beats; a server that wants them less often has many sites
_SPREAD = 5.0  # seconds; over so many come the first beats of many sites, which may be back all at once
_LAST_WORD = 2.0  # seconds in which a leaving site's last word reaches the server


class LinkState(enum.Enum):
    """Where the link to the server is."""

    CONNECTING = "connecting"  # dialling, or waiting to dial again
    CONNECTED = "connected"  # welcomed; beats flow
    REFUSED = "refused"  # the server answered and said no, which may change: the site is locked
    STOPPED = "stopped"  # the agent is stopping


@dataclass(frozen=True, kw_only=True)
class Link:
    """What `site status` shows of the connection."""

    state: LinkState
    since: datetime
    reason: str = ""
    tries: int = 0
    next_at: datetime | None = None  # when it is dialled again


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
        patience: float = PATIENCE,
    ) -> None:
        self._connect = connect
        self._hello = hello
        self._vitals = vitals
        self._welcome = welcome
        self._obey = obey
        self._clock = clock
        self._patience = patience
        self._outgoing: Outbox | None = None
        self._was_connected = False
        self._leaving = False
        self._soon = asyncio.Event()
        self.link = Link(state=LinkState.CONNECTING, since=clock.now())

    def report(self, message: pb.FromSite) -> None:
        """Send to the server if connected. What matters is said again after a reconnect."""
        if self._outgoing is not None:
            self._outgoing.put(message)

    def beat_soon(self) -> None:
        """Something that a heartbeat carries has changed: the next one goes at once."""
        self._soon.set()

    def leave(self, reason: str, *, back: bool) -> None:
        """Tell the server that this site goes by its own decision; `part` follows."""
        self._leaving = True
        self._note(LinkState.STOPPED, reason, self.link.tries)
        self.report(pb.FromSite(leaving=pb.Leaving(reason=reason, back=back)))

    async def part(self, running: asyncio.Task[None]) -> None:
        """End the stream after what is still to be said, and with it `running`, the task of `run`."""
        self._leaving = True
        if self._outgoing is not None:
            self._outgoing.end()
            await asyncio.wait([running], timeout=_LAST_WORD)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    async def run(self) -> None:
        """Hold the stream until cancelled, or until the stream of a leaving site has ended.

        Raises:
            FlprovError: waiting will not help: the server does not take this site, or the two do not
                speak the same protocol. A lock is another matter: it can be opened at any time.
        """
        waits, tries = _waits(), 0
        while True:
            try:
                await self._session()
                raise ServerUnavailable("the server closed the stream")
            except FlprovError as error:
                if self._leaving:
                    return
                if error.nature is not Nature.TRANSIENT:
                    self._note(LinkState.REFUSED, _with_hint(error), tries)
                    raise
                if self._was_connected:
                    waits, tries = _waits(), 0
                self._was_connected = False
                tries += 1
                wait = next(waits)
                state = LinkState.REFUSED if isinstance(error, Refused) else LinkState.CONNECTING
                self._note(state, _with_hint(error), tries, wait)
            await self._clock.sleep(wait)

    def _note(self, state: LinkState, reason: str, tries: int, wait: float | None = None) -> None:
        now = self._clock.now()
        since = self.link.since if state is self.link.state else now
        is_news = (state, reason) != (self.link.state, self.link.reason)
        self.link = Link(
            state=state,
            since=since,
            reason=reason,
            tries=tries,
            next_at=None if wait is None else now + timedelta(seconds=wait),
        )
        if is_news or tries in _SAID or (tries and tries % _SAID_EVERY == 0):
            again = "" if wait is None else f" (try {tries}, next in {wait:.1f} s)"
            logger.info("link to the server: %s%s%s", state.value, f": {reason}" if reason else "", again)

    async def _session(self) -> None:
        connection = self._connect()
        try:
            outgoing = Outbox()
            outgoing.put(pb.FromSite(hello=self._hello()))
            replies = connection.stream(CONTROL, outgoing.drain())
            welcome = await self._first(replies)
            await self._hold(welcome, replies, outgoing)
        finally:
            self._outgoing = None
            await connection.close()

    async def _first(self, replies: AsyncIterator[pb.ToSite]) -> pb.Welcome:
        try:
            async with asyncio.timeout(self._patience):
                first = await anext(replies, None)
        except TimeoutError:
            raise ServerUnavailable(
                f"the server answers, but has not welcomed this site within {self._patience:.0f} s",
                hint="its own log says what it is busy with; it is asked again",
            ) from None
        if first is None:
            raise ServerUnavailable("the server closed the stream before it said Welcome")
        if first.WhichOneof("body") != "welcome":
            raise ProtocolError("the server did not begin with Welcome")
        verify_protocol(first.welcome.protocol, peer="the server")
        return first.welcome

    async def _hold(self, welcome: pb.Welcome, replies: AsyncIterator[pb.ToSite], outgoing: Outbox) -> None:
        self._outgoing = outgoing
        self._was_connected = True
        self._note(LinkState.CONNECTED, "", 0)
        beats = asyncio.create_task(self._beat(welcome.heartbeat_seconds), name="heartbeat")
        try:
            self._welcome(welcome)
            async for message in replies:
                for each in message.several.messages if message.HasField("several") else (message,):
                    self._obey(each)
        finally:
            beats.cancel()
            await asyncio.wait([beats])  # not `await beats`: its end must not swallow our own cancellation

    async def _beat(self, seconds: float) -> None:
        every = min(max(0.1, seconds), 60.0)  # in this order: NaN becomes 0.1
        if every > _FEW:
            wait = random.uniform(0, _SPREAD)  # noqa: S311 - spreads load, guards nothing
            await sleep_unless(self._clock, wait, self._soon)
        while True:
            self._soon.clear()
            try:
                vitals = await self._vitals()
                self.report(pb.FromSite(heartbeat=pb.Heartbeat(vitals=canonical_json(vitals))))
            except (FlprovError, OSError):  # a disk that answers with EIO, say: the next beat tries again
                logger.warning("the state of this machine could not be read", exc_info=True)
            await sleep_unless(self._clock, every, self._soon)


# Tries that are said in the log although nothing is new; all of them are in `site status`.
_SAID = frozenset({1, 2, 5, 10, 20})
_SAID_EVERY = 50


def _waits() -> Iterator[float]:
    """Soon for as long as a server takes to be started again; later on less often."""
    yield from itertools.islice(backoff(most=_SOON), _SOON_TRIES)
    yield from backoff(first=_SOON, most=_LATE)


def _with_hint(error: FlprovError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)
