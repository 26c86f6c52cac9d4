# SPDX-License-Identifier: Apache-2.0
"""When a certificate is renewed: in time, when somebody asks, and again until it works.

What time can heal is tried again soon. What only a person can change is asked again when somebody rings
(the link is up again, the server wants it), and else after half of what is left of the certificate's life.

The same for a site, whose server issues the new one, and for the server, which does so itself.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from flprov._base import Alarm, Clock, backoff
from flprov.errors import FlprovError, Nature
from flprov.kits.credential import Credential, renewal_due

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 3600.0  # seconds between two tries
_SAID_EVERY = 24  # tries that are said in the log although nothing is new
_TRIES = 30  # at least so many fit into the life of a certificate, however short that is


class Renewing:
    """Holds the certificate in use, and has it renewed. Belongs to one event loop."""

    def __init__(
        self,
        credential: Credential,
        renew: Callable[[], Awaitable[Credential]],
        *,
        clock: Clock,
        chance: random.Random | None = None,
    ) -> None:
        """Args:
        credential: to begin with.
        renew: brings the next one, which is on the disk and in use by then. What it raises as
            FlprovError or OSError is tried again as said above; a second try doubles nothing.
        clock: says when.
        chance: for the jitter.
        """
        self._renew = renew
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._alarm = Alarm(clock)
        self.error = ""  # why the last try failed; empty when it did not
        self.tries = 0  # that failed since it was due
        self.next_at: datetime | None = None  # when it is tried again
        self._use(credential)

    @property
    def credential(self) -> Credential:
        """The one in use."""
        return self._credential

    @property
    def due_at(self) -> datetime:
        """When the next is wanted, unless somebody asks before."""
        return self._due_at

    def ring(self) -> None:
        """Renew now; or try again now, after a failure."""
        self._alarm.ring()

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled."""
        while True:
            await self._alarm.wait_until(self._due_at)
            await self._renew_until_done()

    async def _renew_until_done(self) -> None:
        credential = self._credential
        most = _longest_wait(credential)
        waits = backoff(min(1.0, most), most, source=self._chance)
        while True:
            try:
                self._use_new(await self._renew())
            except (FlprovError, OSError) as error:
                self._fail(error, next(waits), credential)
            else:
                break
            await self._alarm.wait_until(self.next_at or self._due_at)
        self.error, self.tries, self.next_at = "", 0, None
        logger.info("new certificate, valid until %s", f"{self._credential.not_after:%Y-%m-%d %H:%M:%S} UTC")

    def _use(self, credential: Credential) -> None:
        self._credential = credential
        self._due_at = renewal_due(credential, self._chance)

    def _use_new(self, credential: Credential) -> None:
        """As `_use`. Where this machine's clock is far ahead, each new one is due as it comes."""
        self._use(credential)
        now = self._clock.now()
        if self._due_at <= now:
            logger.warning(
                "a certificate of %s is due for renewal as it comes: is this machine's clock right?",
                f"{credential.issued_at:%Y-%m-%d %H:%M:%S} UTC",
            )
            self._due_at = now + timedelta(seconds=_longest_wait(credential))

    def _fail(self, error: FlprovError | OSError, wait: float, credential: Credential) -> None:
        text, now = f"it cannot be stored: {error}", self._clock.now()
        if isinstance(error, FlprovError):
            text = f"{error}; {error.hint}" if error.hint else str(error)
            if error.nature is not Nature.TRANSIENT:
                wait = max(wait, (credential.not_after - now).total_seconds() / 2)
        self.tries += 1
        self.next_at = now + timedelta(seconds=wait)
        if text != self.error or self.tries % _SAID_EVERY == 0:
            logger.warning(
                "the certificate could not be renewed: %s (try %d, next in %.0f s)", text, self.tries, wait
            )
        self.error = text


def _longest_wait(credential: Credential) -> float:
    """Seconds between two tries, at most."""
    return min(_LONGEST_WAIT, (credential.not_after - credential.issued_at).total_seconds() / _TRIES)
