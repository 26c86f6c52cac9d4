# SPDX-License-Identifier: Apache-2.0
"""Sites whose last certificate has ended are hung up on."""

from __future__ import annotations

from datetime import datetime, timedelta

from flprov._base import Alarm
from flprov.errors import IdentityRefused
from flprov.server.identities.revocations import drop
from flprov.server.identities.surroundings import Surroundings
from flprov.server.sessions import Session

_MOMENT = timedelta(milliseconds=1)
_FAR = timedelta(days=3650)


class Lapses:
    """Ends a site's calls when the last of its certificates has ended, and not before.

    A control stream outlives the certificate with which it began: that the site has renewed is what counts.
    One sleeper serves all sites; one for each of them took 12 KB.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._alarm = Alarm(around.clock)
        self._next = around.clock.now()  # when it looks again
        self._ends: dict[str, tuple[datetime, Session]] = {}  # by site
        around.sessions.listen(self._note)

    def _note(self, session: Session, connected: bool) -> None:
        self._ends.pop(session.name, None)
        if connected and session.leaf is not None:
            end = self._end_of(session)
            self._ends[session.name] = end, session
            if end < self._next:
                self._alarm.ring()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = self._around.clock.now()
            for name, (end, session) in tuple(self._ends.items()):
                if end < now:
                    self._look(name, session, now)
            self._next = min((end for end, _ in self._ends.values()), default=now + _FAR)
            await self._alarm.wait_until(self._next + _MOMENT)

    def _look(self, name: str, session: Session, now: datetime) -> None:
        end = self._end_of(session)
        if end >= now:
            self._ends[name] = end, session
            return
        del self._ends[name]
        error = IdentityRefused(
            f"the certificate of {session.identity} expired on {end:%Y-%m-%d %H:%M:%S} UTC, and it was not"
            " renewed in time",
            hint=f"ask the project's admin for a new invite: `flprov invite create {name}` there, then"
            " `flprov join INVITE` here",
        )
        drop(self._around, session.identity, error)

    def _end_of(self, session: Session) -> datetime:
        assert session.leaf is not None
        uri, revoked = session.identity.uri, self._around.registry.revocations
        known = [
            record.not_after
            for record in self._around.book.of(uri)
            if revoked.find(uri, record.serial, record.issued_at) is None
        ]
        return max([session.leaf.not_after, *known])
