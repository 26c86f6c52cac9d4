# SPDX-License-Identifier: Apache-2.0
"""Nothing expires in silence: warnings for `status`, and a row of the log at each step on the way.

What does not renew itself (people, CAs) warns 30, 14, 7 and 1 days before its end; a short life moves that
to its last third. What renews itself warns once two thirds of its life are over without a renewal. An end
that has come warns as well. Each step is told once per certificate, also over restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from flprov._base import Alarm
from flprov.errors import FlprovError
from flprov.server.identities.certificates import due_at, list_certificates
from flprov.server.identities.surroundings import Surroundings
from flprov.store import Change, Delete, Put, Row
from flprov.wire.documents import CertificateDocument, CertificateWarning

logger = logging.getLogger(__name__)

WARNED = "warned"
_DAYS = (30, 14, 7, 1)
_FAR = timedelta(days=3650)
_PAUSE = 1.0  # seconds
_AGAIN = timedelta(minutes=1)  # when a row could not be written: the disk is full, say


def steps(line: CertificateDocument) -> list[datetime]:
    """The moments at which there is something to say about a certificate; none if it is out of use."""
    due = due_at(line)
    if line.not_after is None or due is None or line.state in ("revoked", "locked"):
        return []
    if line.kind == "invite":
        return []
    early = [due] if line.renews_itself else [max(due, line.not_after - timedelta(days=n)) for n in _DAYS]
    return sorted({*early, line.not_after})


def step_reached(line: CertificateDocument, now: datetime) -> int:
    """How many of its steps are over."""
    return sum(moment <= now for moment in steps(line))


def find_warnings(lines: Iterable[CertificateDocument], now: datetime) -> tuple[CertificateWarning, ...]:
    """What `status` shows, the most pressing first."""
    return tuple(_warning(line, now) for line in lines if step_reached(line, now))


def _warning(line: CertificateDocument, now: datetime) -> CertificateWarning:
    assert line.not_after is not None
    left = (line.not_after - now) / timedelta(days=1)
    return CertificateWarning(
        subject=line.subject,
        kind=line.kind,
        text=f"{_name(line)} {_verdict(line, left)}",
        not_after=line.not_after,
        days_left=round(left, 4),
        hint=line.hint,
    )


def _name(line: CertificateDocument) -> str:
    if line.kind in ("root", "ca"):
        return (
            "the certificate of the root CA"
            if line.kind == "root"
            else f"the certificate of the {line.subject}"
        )
    return f"the certificate of {line.kind} {line.subject}"


def _verdict(line: CertificateDocument, left: float) -> str:
    end = f"{line.not_after:%Y-%m-%d %H:%M} UTC"
    if left <= 0:
        return f"expired on {end}"
    if line.renews_itself:
        return f"ends on {end} and should have been renewed by now"
    return f"ends on {end}, in {say_days(left)}"


def say_days(days: float) -> str:
    """`12 days`, `1 day`, `5 hours`, `less than an hour`."""
    if days >= 2:
        return f"{days:.0f} days"
    hours = days * 24
    if hours >= 1:
        return f"{hours:.0f} hours" if hours >= 1.5 else "1 hour"
    return "less than an hour"


class ExpiryWatch:
    """Sleeps until the next step of any certificate, and writes its row."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._alarm = Alarm(around.clock)

    def wake(self) -> None:
        """Certificates have come or gone: look again."""
        self._alarm.ring()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            now = self._around.clock.now()
            try:
                lines = list_certificates(self._around, now)
                await self._tell(lines, now)
                wake_at = min((m for line in lines for m in steps(line) if m > now), default=now + _FAR)
            except FlprovError as error:
                logger.warning("what expires could not be written down: %s", error)
                wake_at = now + _AGAIN
            if await self._alarm.wait_until(wake_at):
                await self._around.clock.sleep(_PAUSE)  # a thousand sites that connect cost a few looks

    async def _tell(self, lines: Iterable[CertificateDocument], now: datetime) -> None:
        """One row for each certificate that has come to another step since the last one."""
        told = self._around.store.load(WARNED)
        current = {line.serial: line for line in lines if line.serial}
        for serial, line in current.items():
            step = step_reached(line, now)
            known = int(told[serial]["step"]) if serial in told else 0
            if step > known:
                warning = _warning(line, now)
                logger.warning("%s", warning.text)
                row = Row(
                    who="server",
                    what="cert.expiring",
                    object=line.subject,
                    reason=warning.text,
                    data={"serial": serial, "days_left": warning.days_left},
                )
                await self._around.store.commit([Put(WARNED, serial, {"step": step})], row)
        gone: list[Change] = [Delete(WARNED, serial) for serial in told if serial not in current]
        if gone:
            await self._around.store.commit(gone, None)
