# SPDX-License-Identifier: Apache-2.0
"""What people call about the log: events as they come, rows of the audit, the whole of it, its witnesses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from flprov._base import canonical_json, from_iso
from flprov.errors import Misuse
from flprov.pki import Identity, Role, parse_identity
from flprov.rpc import Call, Handler
from flprov.rpc import methods as m
from flprov.server.log.witnesses import Witnesses
from flprov.server.registry import Registry
from flprov.store import LogRow, RowFilter, Store
from flprov.wire import documents as doc
from flprov.wire import pb

_PAGE = 200  # rows in one message
_CHUNK = 1000  # rows of one part of an export
_LARGEST = 1 << 20  # bytes of one message, as long as a single row is not larger
_LONGEST = 300  # characters of a filter
_LAST_INDEX = 1 << 62

# What stands before the dot of a verb. Denials ("call") are in the audit alone.
WORK = ("app", "job", "round", "server", "site", "task", "update", "workflow")
RIGHTS = ("cert", "crl", "invite", "log", "person", "trust", "user")

See = Callable[[LogRow], bool]


class LogService:
    """The handlers."""

    def __init__(self, store: Store, registry: Registry, witnesses: Witnesses) -> None:
        self._store = store
        self._registry = registry
        self._witnesses = witnesses

    def table(self) -> dict[m.Method, Handler]:
        """Each row of the method table with its handler."""
        return {
            m.WATCH_EVENTS: self.watch_events,
            m.READ_AUDIT: self.read_audit,
            m.EXPORT_LOG: self.export_log,
            m.SHOW_WITNESSES: self.show_witnesses,
        }

    async def watch_events(self, call: Call, request: pb.EventsRequest) -> AsyncIterator[pb.Document]:
        """What happened to jobs and sites, and what happens; project_admins also see rights change."""
        families = WORK + RIGHTS if call.caller.role is Role.PROJECT_ADMIN else WORK
        async for rows, after in self._read(request, families, lambda _row: True):
            for part, next_ in _split(rows, after):
                events = tuple(_event(row) for row in part)
                yield _document(doc.EventListDocument(events=events, next=next_))

    async def read_audit(self, call: Call, request: pb.EventsRequest) -> AsyncIterator[pb.Document]:
        """Rows with their digests: all for a project_admin, an organisation's own for its org_admin."""
        async for rows, after in self._read(request, (), self._sees(call.caller)):
            for part, _ in _split(rows, after):
                found = tuple(_audit_row(row) for row in part)
                yield _document(doc.AuditListDocument(rows=found, head=self._store.head))

    async def export_log(self, call: Call, request: pb.EventsRequest) -> AsyncIterator[bytes]:  # noqa: ARG002
        """Every row from an index on as a line, exactly as it is kept, up to where the log ends now."""
        position, end = max(request.start, 1), self._store.head
        while position <= end and (lines := await self._store.lines(position, _CHUNK)):
            data = b"".join(lines)
            for start in range(0, len(data), _LARGEST):  # a piece may end in the middle of a line
                yield data[start : start + _LARGEST]
            position += len(lines)

    async def show_witnesses(self, call: Call, request: pb.Query) -> pb.Document:  # noqa: ARG002
        """What the sites have signed."""
        return _document(self._witnesses.document())

    # ---- reading ---------------------------------------------------------------------------

    async def _read(
        self, request: pb.EventsRequest, families: tuple[str, ...], sees: See
    ) -> AsyncIterator[tuple[list[LogRow], int]]:
        """Rows that are wanted, page by page, with the index from which to go on."""
        wanted = _filter(request, families)
        left = request.limit or None
        position, first = request.start, True
        if not position:
            position = self._store.head + 1
            if request.last:
                yield await self._newest(wanted, sees, request.last, position), position
                first = False
        while left is None or left > 0:
            rows, position, more = await self._page(wanted, position)
            seen = [row for row in rows if sees(row)][:left]
            if seen or first:
                yield seen, position
            first = False
            left = None if left is None else left - len(seen)
            if not more:
                if not request.follow:
                    return
                await self._store.wait_beyond(position - 1)

    async def _page(self, wanted: RowFilter, position: int) -> tuple[list[LogRow], int, bool]:
        """Rows from here on, where to go on after them, and whether there are more at once."""
        end = self._store.head
        rows = await self._store.find(wanted, start=position, limit=_PAGE)
        after = rows[-1].index + 1 if rows else position
        full = len(rows) == _PAGE
        return rows, after if full else max(after, end + 1), full

    async def _newest(self, wanted: RowFilter, sees: See, count: int, before: int) -> list[LogRow]:
        """The newest rows that are wanted and may be seen, among the last thousand or so that are wanted."""
        found = await self._store.find(wanted, limit=max(min(count, 10_000), _CHUNK), newest=True)
        return [row for row in found if sees(row) and row.index < before][-count:]

    def _sees(self, caller: Identity) -> See:
        if caller.role is Role.PROJECT_ADMIN:
            return lambda _row: True
        return lambda row: self._concerns(row, caller.org)

    def _concerns(self, row: LogRow, org: str) -> bool:
        """Whether it was done by somebody of this organisation, or to one of its sites or people."""
        entry = row.row
        return (
            _org_of(entry.who) == org
            or _org_of(entry.object) == org
            or self._registry.orgs.get(entry.object) == org
        )


def _split(rows: Sequence[LogRow], after: int) -> Iterator[tuple[Sequence[LogRow], int]]:
    """A page in as many parts as it takes for each to fit into a message; and where each goes on."""
    size = sum(len(row.row.reason) + len(str(row.row.data)) for row in rows)
    if size <= _LARGEST // 2 or len(rows) < 2:
        yield rows, after
        return
    middle = len(rows) // 2
    yield from _split(rows[:middle], rows[middle - 1].index + 1)
    yield from _split(rows[middle:], after)


def _org_of(uri: str) -> str:
    if not uri.startswith("spiffe://"):
        return ""
    try:
        return parse_identity(uri).org
    except Exception:
        return ""


def _filter(request: pb.EventsRequest, families: tuple[str, ...]) -> RowFilter:
    if request.start > _LAST_INDEX:
        raise Misuse(f"no log has a row {request.start}", hint="flprov audit ls")
    for name in ("what", "object", "who", "outcome"):
        if len(getattr(request, name)) > _LONGEST:
            raise Misuse(f"{name} has more than {_LONGEST} characters")
    try:
        since = from_iso(request.since) if request.since else None
        until = from_iso(request.until) if request.until else None
    except (ValueError, OverflowError) as error:
        raise Misuse(f"that is not a time: {error}") from error
    return RowFilter(
        families=families,
        what=request.what,
        object=request.object,
        who=request.who,
        outcome=request.outcome,
        since=since,
        until=until,
    )


def _event(row: LogRow) -> doc.EventDocument:
    entry = row.row
    return doc.EventDocument(
        index=row.index,
        at=row.at,
        who=entry.who,
        what=entry.what,
        object=entry.object,
        outcome=entry.outcome,
        reason=entry.reason,
        data=entry.data,
    )


def _audit_row(row: LogRow) -> doc.AuditRowDocument:
    entry = row.row
    return doc.AuditRowDocument(
        index=row.index,
        at=row.at,
        who=entry.who,
        what=entry.what,
        object=entry.object,
        outcome=entry.outcome,
        reason=entry.reason,
        data=entry.data,
        previous=row.previous,
        digest=row.digest,
    )


def _document(value: object) -> pb.Document:
    return pb.Document(json=canonical_json(value))
