# SPDX-License-Identifier: Apache-2.0
"""A job's record and the only ways to change it: each change is on disk, with its row, before it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

from flprov._base import Clock, to_document
from flprov.errors import error_class
from flprov.jobs import JobState, verify_step
from flprov.server.records import JobRecord
from flprov.store import Change, Put, Row, Store
from flprov.wire.documents import Cause

_MOST_CAUSES = 50
_URGENT = frozenset({JobState.ABORTING, JobState.ABORTED})  # these may use the disk's reserve


class JobLedger:
    """Holds one job's record. Only the job's run writes to it."""

    def __init__(
        self, record: JobRecord, *, store: Store, clock: Clock, on_change: Callable[[str], None]
    ) -> None:
        self.record = record
        self._written: dict[str, tuple[object, object]] = {}  # field -> value, and that as a document
        self._store = store
        self._clock = clock
        self._on_change = on_change

    async def step(
        self, state: JobState, reason: str, what: str, *more: Change, who: str = "server", **changes: object
    ) -> None:
        """Go to another state, as the table of states allows, and make `more` of it in one transaction."""
        verify_step(self.record.state, state)
        row = Row(who=who, what=what, object=self.record.id, outcome=state.value, reason=reason)
        await self.save(row, *more, before=(), state=state, reason=reason, **changes)

    async def save(
        self, row: Row | None, *more: Change, before: Sequence[Row] = (), **changes: object
    ) -> None:
        """Change the record, and `more` with it in one transaction. `before`: rows that come before `row`.

        Raises:
            LocalError: it could not be written; nothing has changed.
        """
        record = replace(self.record, **changes)  # type: ignore[arg-type]
        written: Sequence[Change] = [Put("job", record.id, self._document(record)), *more]
        await self._store.commit(written, row, urgent=record.state in _URGENT, before=before)
        self.record = record
        self._on_change(record.id)

    def _document(self, record: JobRecord) -> dict[str, object]:
        """The record as a document. Of its thirty fields a round changes five, and none of the large ones."""
        for field in fields(record):
            value = getattr(record, field.name)
            if field.name not in self._written or self._written[field.name][0] is not value:
                self._written[field.name] = (value, to_document(value))
        return {name: document for name, (_, document) in self._written.items()}

    def note(self, **changes: object) -> None:
        """What is shown but not written: a reason to wait, who has not confirmed yet."""
        if any(getattr(self.record, name) != value for name, value in changes.items()):
            self.record = replace(self.record, **changes)  # type: ignore[arg-type]
            self._on_change(self.record.id)

    def changed(self) -> None:
        """Something that is shown beside the record has changed."""
        self._on_change(self.record.id)

    def causes(
        self, party: str, code: str, message: str, traceback: str = "", hint: str = ""
    ) -> tuple[Cause, ...]:
        """The record's causes and one more; the first stays the first."""
        cause = Cause(
            at=self._clock.now(),
            party=party,
            code=code,
            message=message,
            traceback=traceback,
            hint=hint,
            nature=error_class(code).nature.value,
        )
        return (*self.record.causes, cause)[:_MOST_CAUSES]

    def about(self, site: str) -> str:
        """What a row says of this job at one site."""
        return f"{self.record.id}/{site}"
