# SPDX-License-Identifier: Apache-2.0
"""The sites that are connected now. A session is an identity and an installation, not a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flprov.errors import KitRefused, SiteUnavailable
from flprov.wire import pb
from flprov.wire.documents import Vitals

if TYPE_CHECKING:
    from flprov.pki import Identity, Leaf

_CLOCK = timedelta(minutes=1)  # a clock that is off by less is in order: Kerberos allows five
_OFFSETS = 5  # heartbeats
_BEATS_AT_ONCE = 100  # heartbeats
_BEATS_A_SECOND = 4.0
_MOST_WAITING = 10_000  # messages; a site that does not read for that long is dropped
_MOST_TOGETHER = 64  # messages that travel as one
_LARGEST_TOGETHER = 256 << 10  # bytes; what does not fit travels alone
_PATIENCE = 0.02  # seconds; so long what is not urgent waits for something to travel with
_PATIENCE_EACH = 0.0005  # seconds; of many sites so much for each: a round of theirs takes longer
_LONGEST_PATIENCE = 0.5
_GOODBYE = 10.0  # seconds in which a stream that was closed brings out what is queued


class Session:
    """One site's live control stream."""

    def __init__(
        self, identity: Identity, hello: pb.Hello, *, since: datetime, leaf: Leaf | None = None
    ) -> None:
        self.identity = identity
        self.leaf = leaf  # with which it came; None on a transport without certificates
        self.name = identity.name
        self.hello = hello
        self.since = since
        self.last_seen = since
        self.vitals: Vitals | None = None
        self._outgoing: list[pb.ToSite] = []  # short; an empty deque takes 700 bytes, of each site
        self._due = asyncio.Event()  # what waits is urgent, or has waited long enough, or this is the end
        self._timer: asyncio.TimerHandle | None = None  # until then what waits is not urgent
        self._ended = False
        self.cut: Callable[[], object] | None = None  # ends the stream of a site that does not read
        self._goodbye: asyncio.TimerHandle | None = None
        self.closed_because = ""
        self.leaving = ""  # why it goes, by its own decision; empty: it has not said so
        self.clock_off = timedelta(0)  # how far its clock is behind ours; less than is lost on the way: none
        self._offsets: tuple[timedelta, ...] = ()  # of the last heartbeats
        self._beats = float(_BEATS_AT_ONCE)  # that it may send now
        self._beat_at = 0.0  # seconds of the monotonic clock

    def may_beat(self, now: float) -> bool:
        """Whether a heartbeat is read: each may cost a plan. A healthy agent never sends as many.

        Args:
            now: of the monotonic clock.
        """
        self._beats = min(_BEATS_AT_ONCE, self._beats + (now - self._beat_at) * _BEATS_A_SECOND)
        self._beat_at = now
        if self._beats < 1:
            return False
        self._beats -= 1
        return True

    def note_clock(self, said: datetime, now: datetime) -> None:
        """What the site's clock said when it sent something that came now.

        On a slow link that is long ago: of the last few words the one that was least late counts.
        """
        self._offsets = (*self._offsets[1 - _OFFSETS :], now - said)
        least = min(self._offsets, key=abs)
        self.clock_off = least if abs(least) >= _CLOCK else timedelta(0)

    def send(self, message: pb.ToSite, *, urgent: bool = True, patience: float = _PATIENCE) -> None:
        """Queue a message; it leaves in order. A site that never reads is dropped.

        What is not `urgent` leaves with the next message that is, or after so many seconds of `patience` by
        itself: each message costs both ends as much as a small round's whole arithmetic.
        """
        if self._ended:
            return
        if len(self._outgoing) >= _MOST_WAITING:
            self.close("it stopped reading its commands")
            return
        self._outgoing.append(message)
        if urgent:
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(patience, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._due.set()

    def close(self, reason: str) -> None:
        """End the stream after what is queued, or some seconds later if the site takes none of that."""
        self.closed_because = self.closed_because or reason
        self._ended = True
        self._due.set()
        if self.cut is not None and self._goodbye is None:
            self._goodbye = asyncio.get_running_loop().call_later(_GOODBYE, self.cut)

    def over(self) -> None:
        """The stream has ended."""
        self.cut = None
        if self._goodbye is not None:
            self._goodbye.cancel()

    @property
    def waiting(self) -> int:
        """Messages that have not left yet."""
        return len(self._outgoing)

    async def outgoing(self) -> pb.ToSite | None:
        """The next message for the site; None when the session was closed."""
        while not self._outgoing:
            if self._ended:
                return None
            self._due.clear()
            await self._due.wait()
        await self._due.wait()
        message = self._outgoing.pop(0)
        if not self._outgoing and not self._ended:
            self._due.clear()
        return message

    def together(self, message: pb.ToSite) -> pb.ToSite:
        """This message and those that wait behind it, as one if they are small."""
        found, size = [message], message.ByteSize()
        while self._outgoing and len(found) < _MOST_TOGETHER:
            size += self._outgoing[0].ByteSize()
            if size > _LARGEST_TOGETHER:
                break
            found.append(self._outgoing.pop(0))
        return message if len(found) == 1 else pb.ToSite(several=pb.Several(messages=found))


class Sessions:
    """All sessions, by site name; listeners hear of every coming and going."""

    def __init__(self) -> None:
        self._live: dict[str, Session] = {}
        self._listeners: list[Callable[[Session, bool], None]] = []

    def listen(self, listener: Callable[[Session, bool], None]) -> None:
        """Call `listener(session, connected)` from now on."""
        self._listeners.append(listener)

    def get(self, name: str) -> Session | None:
        """The live session of this site."""
        return self._live.get(name)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._live.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._live

    def verify_free(self, identity: Identity, hello: pb.Hello) -> None:
        """Refuse a second machine that uses the kit of a site which is connected.

        The same installation takes over from its own older socket: that is a reconnect.

        Raises:
            KitRefused: another installation holds the session.
        """
        held = self._live.get(identity.name)
        if held is not None and held.hello.installation != hello.installation:
            raise KitRefused(
                f"site {identity.name} is already connected from {held.hello.host}"
                f" since {held.since:%Y-%m-%d %H:%M:%S} UTC; {hello.host} uses a second copy of its kit",
                hint=f"stop one of the two; if {held.hello.host} is not yours, an admin types:"
                f" flprov cert revoke {identity.name}",
            )

    def add(self, session: Session) -> None:
        """Register a session; an older socket of the same installation is closed.

        Raises:
            KitRefused: another installation holds the session.
        """
        self.verify_free(session.identity, session.hello)
        older = self._live.get(session.name)
        self._live[session.name] = session
        if older is not None:
            older.close("the site connected again")
        for listener in self._listeners:
            listener(session, True)  # noqa: FBT003

    def remove(self, session: Session) -> bool:
        """Forget a session; False when a newer one has taken its place, so that the site is not gone."""
        if self._live.get(session.name) is not session:
            return False
        del self._live[session.name]
        for listener in self._listeners:
            listener(session, False)  # noqa: FBT003
        return True

    def send(self, name: str, message: pb.ToSite, *, urgent: bool = True) -> None:
        """Send to a site; see `Session.send`.

        Raises:
            SiteUnavailable: it is not connected.
        """
        session = self._live.get(name)
        if session is None:
            raise SiteUnavailable(f"site {name} is not connected")
        patience = min(_LONGEST_PATIENCE, max(_PATIENCE, _PATIENCE_EACH * len(self._live)))
        session.send(message, urgent=urgent, patience=patience)
