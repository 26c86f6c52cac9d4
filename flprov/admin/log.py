# SPDX-License-Identifier: Apache-2.0
"""A person's reading of the server's log: events as they come, rows of the audit, the whole log as lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from flprov._base import Clock, backoff, dataclass, to_iso
from flprov.admin.link import Link, read_document
from flprov.errors import FlprovError, Nature, ProtocolError
from flprov.rpc import methods as m
from flprov.wire import documents as doc
from flprov.wire import pb

_MOST_TRIES = 8  # in a row, in about a minute
_LONGEST_LINE = 32 << 20  # bytes; a row is at most as large as a message

# Told of each failure after which it is tried again: why, how often in a row, after how many seconds.
OnRetry = Callable[[FlprovError, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which rows; what is empty or None goes for all."""

    what: str = ""  # a verb, or its beginning up to a dot: "job."
    object: str = ""
    who: str = ""  # an identity's URI, or the name at its end
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def request(
        self, *, start: int = 0, last: int = 0, limit: int = 0, follow: bool = False
    ) -> pb.EventsRequest:
        """What to ask the server for."""
        return pb.EventsRequest(
            start=start,
            last=last,
            limit=limit,
            follow=follow,
            what=self.what,
            object=self.object,
            who=self.who,
            outcome=self.outcome,
            since=to_iso(self.since) if self.since else "",
            until=to_iso(self.until) if self.until else "",
        )


def read_events(
    link: Link, wanted: Wanted, *, start: int = 0, last: int = 0
) -> Iterator[doc.EventListDocument]:
    """Events up to now, some at a time: from an index on, or the newest `last`."""
    for reply in link.download(m.WATCH_EVENTS, wanted.request(start=start, last=last)):
        yield read_document(doc.EventListDocument, reply)


def follow_events(
    link: Link, clock: Clock, wanted: Wanted, *, start: int = 0, last: int = 0, on_retry: OnRetry
) -> Iterator[doc.EventListDocument]:
    """Events from an index on, or from the newest `last` on, and then each as it is written, without end.

    When the server goes away the call is made again from where it was; nothing is missing or there twice.

    Raises:
        Refused: the server does not let this person see them, or no more.
    """
    waits, tries = backoff(first=0.5), 0
    while True:
        try:
            for reply in link.download(m.WATCH_EVENTS, wanted.request(start=start, last=last, follow=True)):
                found = read_document(doc.EventListDocument, reply)
                start, last = max(found.next, start), 0
                waits, tries = backoff(first=0.5), 0
                yield found
            error: FlprovError = ProtocolError("the server ended the stream of events")
        except FlprovError as failure:
            if failure.nature is not Nature.TRANSIENT:
                raise
            error = failure
        tries += 1
        seconds = next(waits)
        on_retry(error, tries, seconds)
        link.run(clock.sleep(seconds))


def read_audit(
    link: Link, wanted: Wanted, *, start: int = 0, last: int = 0, limit: int = 0
) -> Iterator[doc.AuditListDocument]:
    """Rows of the audit up to now, some at a time."""
    for reply in link.download(m.READ_AUDIT, wanted.request(start=start, last=last, limit=limit)):
        yield read_document(doc.AuditListDocument, reply)


def fetch_witnesses(link: Link) -> doc.WitnessListDocument:
    """What the server says that its sites have signed."""
    return link.document(doc.WitnessListDocument, m.SHOW_WITNESSES, pb.Query())


def fetch_lines(link: Link, clock: Clock, *, start: int, on_retry: OnRetry) -> Iterator[bytes]:
    """Every row from `start` on as a line. When the connection breaks, it goes on where it was.

    Raises:
        ProtocolError: what comes is without end.
        Unavailable: nothing came, several times in a row.
    """
    waits, tries, kept = backoff(first=0.5), 0, b""
    while True:
        try:
            for chunk in link.download(m.EXPORT_LOG, pb.EventsRequest(start=start)):
                *lines, kept = (kept + chunk).split(b"\n")
                if len(kept) > _LONGEST_LINE:
                    raise ProtocolError("the server sends a row of the log that does not end")
                for line in lines:
                    start += 1
                    yield line + b"\n"
                waits, tries = backoff(first=0.5), 0
            if kept:
                yield kept
            return
        except FlprovError as error:
            tries += 1
            if error.nature is not Nature.TRANSIENT or tries > _MOST_TRIES:
                raise
            kept, seconds = b"", next(waits)
            on_retry(error, tries, seconds)
            link.run(clock.sleep(seconds))
