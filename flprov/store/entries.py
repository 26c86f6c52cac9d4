# SPDX-License-Identifier: Apache-2.0
"""Commits as text: encoded once by the caller, so that nothing unreadable is ever queued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from flprov._base import from_document, from_iso, parse_json, to_document, to_iso
from flprov.errors import LocalError
from flprov.store.chain import digest_row
from flprov.store.records import Change, Delete, LogRow, Row


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One commit, ready to be written."""

    changes: tuple[tuple[str, str, str | None], ...]  # kind, id, JSON; None deletes
    rows: tuple[str, ...]  # canonical JSON
    at: str


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last row of the log, as far as the next one needs it."""

    index: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class SealedRow:
    """A row of the log as columns of text."""

    index: int
    at: str
    row: str
    previous: str
    digest: str

    @property
    def head(self) -> Head:
        """This row as the one that the next is chained to."""
        return Head(index=self.index, digest=self.digest)


def encode_commit(changes: Sequence[Change], rows: Iterable[Row], at: datetime) -> Entry:
    """The commit as text, independent of the caller's objects.

    Raises:
        LocalError: something in it has no JSON form; the message names it.
    """
    encoded = tuple(_encode_change(change) for change in changes)
    return Entry(changes=encoded, rows=tuple(_encode_row(row) for row in rows), at=to_iso(at))


def logged(row: Row | None, before: Sequence[Row]) -> tuple[Row, ...]:
    """The rows of a commit, in order."""
    return tuple(before) if row is None else (*before, row)


def _encode_change(change: Change) -> tuple[str, str, str | None]:
    name = f"the record {change.kind!r} {change.id!r}"
    _verify_texts(name, change.kind, change.id)
    if isinstance(change, Delete):
        return change.kind, change.id, None
    return change.kind, change.id, _encode(name, change.value)


def _encode_row(row: Row) -> str:
    name = f"the log row {row.what!r}"
    _verify_texts(name, row.who, row.what, row.object, row.outcome, row.reason)
    _verify_mapping(name, row.data)
    return _encode(name, row)


def _verify_texts(name: str, *texts: str) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise LocalError(f"{name} cannot be stored: {text!r} should be text")
        if not text.isascii():
            _verify_unicode(name, text)


def _verify_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LocalError(f"{name} cannot be stored: {text!r} is not Unicode text") from error


def _verify_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise LocalError(f"{name} cannot be stored: its value is a {type(value).__name__}, not a mapping")


def _encode(name: str, value: Row | Mapping[str, object]) -> str:
    try:
        if not isinstance(value, Row):
            _verify_mapping(name, value)
        text = _RECORDS.encode(value)
        if not text.isascii():
            text.encode()  # half a surrogate pair is no text
    except (TypeError, ValueError, RecursionError) as error:
        raise LocalError(f"{name} cannot be stored: {error}") from error
    return text


# Of a record nobody takes a digest: what its writer has made a document of is not made one again.
_RECORDS = json.JSONEncoder(
    default=to_document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def seal_rows(entry: Entry, head: Head) -> Iterator[SealedRow]:
    """The entry's rows as those after `head`."""
    for row in entry.rows:
        index = head.index + 1
        digest = digest_row(index, entry.at, row.encode(), head.digest)
        sealed = SealedRow(index=index, at=entry.at, row=row, previous=head.digest, digest=digest)
        yield sealed
        head = sealed.head


def decode_row(sealed: SealedRow) -> LogRow:
    """The row that was sealed.

    Raises:
        ValueError: somebody else wrote this.
    """
    return LogRow(
        index=sealed.index,
        at=from_iso(sealed.at),
        row=from_document(Row, parse_json(sealed.row)),
        previous=sealed.previous,
        digest=sealed.digest,
    )
