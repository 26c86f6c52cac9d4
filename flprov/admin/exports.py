# SPDX-License-Identifier: Apache-2.0
"""The log in a file: a line per row and, at its end, a line per receipt. It can be continued, and verified.

A file that is there already is continued, never overwritten: its rows are verified first, and the server's
next row must follow the last of them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from flprov._base import canonical_json, from_document, parse_json
from flprov.errors import Conflict, NotFound, RemoteError
from flprov.store import START, BrokenRow, Head, verify_line
from flprov.wire.documents import (
    AuditExportDocument,
    DisputeDocument,
    ReceiptDocument,
    WitnessListDocument,
)

Progress = Callable[[int, int], None]  # rows written, rows in all
_STEP = 1000
_LONGEST_LINE = 64 << 20  # bytes; a row is at most as large as a message
_RECEIPT, _DISPUTE, _ABOUT = b'{"receipt":', b'{"dispute":', b'{"log":'


def export_log(
    path: Path,
    fetch: Callable[[int], Iterator[bytes]],
    witnesses: WitnessListDocument,
    *,
    progress: Progress | None = None,
) -> AuditExportDocument:
    """Write the log to `path`, or what is new of it.

    Args:
        path: the file.
        fetch: the rows from an index on.
        witnesses: what the sites have signed, as of before the rows.
        progress: told now and then.

    Raises:
        Conflict: what is there is not the beginning of this log, or is being written.
        RemoteError: the server's log does not continue it: it was rewritten since.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        _lock(path, file)
        known = _read_known(path, file)
        lines = _continuing(path, fetch(max(known.head.index, 1)), known)
        head = _append(file, lines, known, witnesses.head, progress)
        for line in _witness_lines(witnesses):
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return AuditExportDocument(
        file=str(path),
        rows=head.index,
        added=head.index - known.head.index,
        head=head.index,
        digest=head.digest,
        bytes=size,
    )


def _lock(path: Path, file: BinaryIO) -> None:
    """Nobody else's from now on, until it is closed. Raises Conflict."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Conflict(f"another export writes {path} now", hint="wait until it has ended") from None


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a file holds already: its whole rows, and what stands behind them."""

    head: Head
    last: bytes  # the last row
    end: int  # where the rows end
    rest: bytes  # what the sites had signed, or a row that was cut short


def _read_known(path: Path, file: BinaryIO) -> _Known:
    """The file as it is. Raises Conflict if it is not the beginning of a log: its bytes are somebody's."""
    head, last, end = START, b"", 0
    while (line := file.readline(_LONGEST_LINE)).endswith(b"\n") and not (last and is_remark(line)):
        found = verify_line(line, head)
        if isinstance(found, BrokenRow):
            raise _is_no_log(path, found.problem)
        head, last, end = found, line, end + len(line)
    if not (last and is_remark(line)) and not _is_cut_short(line, head):
        raise _is_no_log(path, f"what comes after row {head.index} is no row" if last else "it has no row 1")
    return _Known(head=head, last=last, end=end, rest=line + file.read())


def _is_cut_short(line: bytes, head: Head) -> bool:
    """Whether this may be how an earlier export ended: in the middle of the next row, or of a remark."""
    forms = (b'{"index":%d,' % (head.index + 1), *((_RECEIPT, _DISPUTE, _ABOUT) if head.index else ()))
    return any(line.startswith(form) or form.startswith(line) for form in forms)


def _is_no_log(path: Path, problem: str) -> Conflict:
    return Conflict(
        f"{path} is there already, and is not the beginning of a log: {problem}",
        hint="name another file with -o",
    )


def _continuing(path: Path, lines: Iterator[bytes], known: _Known) -> Iterator[bytes]:
    """The rows after the last known one, which has to be the first that comes."""
    if known.last:
        line = next(lines, b"")
        if line.rstrip(b"\n") != known.last.rstrip(b"\n"):
            what = "another one there" if line else "not there any more"
            raise RemoteError(
                f"the server's log does not continue {path}: row {known.head.index} is {what}",
                hint="the log was rewritten since; keep that file, and type: flprov audit verify",
            )
    yield from lines


def _append(
    file: BinaryIO, lines: Iterator[bytes], known: _Known, total: int, progress: Progress | None
) -> Head:
    """Write the rows over what comes behind the known ones; that is put back when they are broken."""
    head = known.head
    for number, line in enumerate(lines, start=head.index + 1):
        found = verify_line(line, head)
        if isinstance(found, BrokenRow):
            _cut(file, known.end)
            file.write(known.rest)
            raise RemoteError(f"the server's log is broken: {found.problem}", hint="flprov audit verify")
        if head == known.head:
            _cut(file, known.end)
        head = found
        file.write(line)
        if progress and number % _STEP == 0:
            progress(number, max(total, number))
    if head == known.head:
        _cut(file, known.end)
    if progress:
        progress(head.index, max(head.index, 1))
    return head


def _cut(file: BinaryIO, end: int) -> None:
    file.seek(end)
    file.truncate()


def is_remark(line: bytes) -> bool:
    """Whether a line of an export is not a row."""
    return line.startswith((_RECEIPT, _DISPUTE, _ABOUT))


def _witness_lines(witnesses: WitnessListDocument) -> Iterator[bytes]:
    about = {"project_id": witnesses.project_id, "head": witnesses.head, "digest": witnesses.digest}
    yield canonical_json({"log": about}) + b"\n"
    for receipt in witnesses.receipts:
        yield canonical_json({"receipt": receipt}) + b"\n"
    for dispute in witnesses.disputes:
        yield canonical_json({"dispute": dispute}) + b"\n"


def read_rows(path: Path) -> Iterator[bytes]:
    """The rows of an export. Raises NotFound."""
    with _open(path) as file:
        for line in file:
            if not is_remark(line):
                yield line


def read_witnesses(path: Path) -> WitnessListDocument | None:
    """What the sites had signed when an export was made; None when it was cut short before that.

    Raises:
        Conflict: those lines are not as they were written.
    """
    about: dict[str, object] | None = None
    receipts: list[ReceiptDocument] = []
    disputes: list[DisputeDocument] = []
    with _open(path) as file:
        for line in file:
            if not is_remark(line):
                continue
            try:
                found = parse_json(line)
                if "log" in found:
                    about = dict(found["log"])
                elif "receipt" in found:
                    receipts.append(from_document(ReceiptDocument, found["receipt"]))
                else:
                    disputes.append(from_document(DisputeDocument, found["dispute"]))
            except (ValueError, TypeError) as error:
                raise Conflict(f"{path} is not as it was written: {error}") from error
    if about is None:
        return None
    try:
        return WitnessListDocument(
            project_id=str(about["project_id"]),
            head=int(str(about["head"])),
            digest=str(about["digest"]),
            receipts=tuple(receipts),
            disputes=tuple(disputes),
        )
    except (KeyError, ValueError) as error:
        raise Conflict(f"{path} is not as it was written: {error}") from error


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise NotFound(f"no file {path}", hint="flprov audit export -o FILE") from None
