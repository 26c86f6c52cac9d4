# SPDX-License-Identifier: Apache-2.0
"""The log as lines of text: exported, sent to an admin's machine, and verified there row by row.

A line is `{"index":N,"at":T,"previous":P,"digest":D,"row":R}`, spelled exactly so. R are the very bytes that
the digest was made of, so that verifying takes no parser, and nothing can hide in what a parser passes over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from flprov._base import from_document, from_iso, parse_json
from flprov.store.chain import GENESIS, digest_row
from flprov.store.entries import Head, SealedRow
from flprov.store.records import LogRow, Row

_FORM = b'{"index":%s,"at":"%s","previous":"%s","digest":"%s","row":%s}\n'
_LINE = re.compile(
    rb'\{"index":([0-9]{1,18}),"at":"([0-9TZ:.-]{1,40})","previous":"([0-9a-f]{64})","digest":"([0-9a-f]{64})",'
    rb'"row":(\{[^\n]*\})\}\n?'
)

START = Head(index=0, digest=GENESIS)  # what row 1 is chained to


@dataclass(frozen=True, kw_only=True)
class BrokenRow:
    """The first row that is not as it was written, and what is wrong with it."""

    index: int
    problem: str


def write_line(index: bytes, at: bytes, previous: bytes, digest: bytes, row: bytes) -> bytes:
    """One row as a line, whatever its columns hold."""
    return b'{"index":%s,"at":"%s","previous":"%s","digest":"%s","row":%s}\n' % (
        index,
        at,
        previous,
        digest,
        row,
    )


def seal_line(sealed: SealedRow) -> bytes:
    """A row that was sealed here as a line."""
    columns = (str(sealed.index), sealed.at, sealed.previous, sealed.digest, sealed.row)
    return write_line(*(column.encode() for column in columns))


def verify_line(line: bytes, before: Head) -> Head | BrokenRow:
    """The row in `line` as the head that the next one follows, if it is the one after `before`."""
    index = before.index + 1
    found = _LINE.fullmatch(line)
    if found is None:
        return BrokenRow(index=index, problem=_unreadable(index))
    number, at, previous, digest, row = found.groups()
    if int(number) != index:
        return BrokenRow(index=index, problem=_misplaced(index, int(number)))
    if previous.decode() != before.digest:
        return BrokenRow(
            index=index,
            problem=f"row {index} does not follow row {before.index}: one of the two was replaced",
        )
    if digest_row(index, at.decode(), row, before.digest) != digest.decode():
        return BrokenRow(index=index, problem=f"row {index} does not match its digest: it was changed")
    return Head(index=index, digest=digest.decode())


def _unreadable(index: int) -> str:
    return f"row {index} cannot be read: it was changed"


def _misplaced(index: int, found: int) -> str:
    if found > index:
        last = f" to {found - 1}" if found - 1 > index else ""
        return f"row {index}{last} is missing: row {found} stands in its place"
    return f"row {found} stands where row {index} should be"


def verify_lines(lines: Iterable[bytes], before: Head = START) -> Head | BrokenRow:
    """The last of these rows, if each follows the one before it; else the first that does not."""
    head = before
    for line in lines:
        found = verify_line(line, head)
        if isinstance(found, BrokenRow):
            return found
        head = found
    return head


def read_line(line: bytes) -> LogRow:
    """The row in a line, for showing. Raises ValueError when it is none."""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ValueError("it is not a row of a log")
    number, at, previous, digest, row = found.groups()
    return LogRow(
        index=int(number),
        at=from_iso(at.decode()),
        row=from_document(Row, parse_json(row)),
        previous=previous.decode(),
        digest=digest.decode(),
    )
