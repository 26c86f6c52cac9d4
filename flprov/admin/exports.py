# SPDX-License-Identifier: Apache-2.0
"""The log in a file: a line per row and, at its end, a line per receipt. It can be continued, and verified.

A file that is there already is continued, never overwritten: its rows are verified first, and the server's
next row must follow the last of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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
        Conflict: what is there is not the beginning of this log.
        RemoteError: the server's log does not continue it: it was rewritten since.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        known = _continue(path, file)
        head = _append(path, file, fetch(known.index + 1), known, witnesses.head, progress)
        for line in _witness_lines(witnesses):
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    return AuditExportDocument(
        file=str(path),
        rows=head.index,
        added=head.index - known.index,
        head=head.index,
        digest=head.digest,
        bytes=size,
    )


def _continue(path: Path, file: BinaryIO) -> Head:
    """The last whole row in the file, which is cut off behind it."""
    head, end = START, 0
    for line in file:
        if not line.endswith(b"\n") or is_remark(line):
            break  # where an earlier export was cut short, or ended
        found = verify_line(line, head)
        if isinstance(found, BrokenRow):
            raise Conflict(
                f"{path} is there already, and is not the beginning of a log: {found.problem}",
                hint="name another file with -o",
            )
        head, end = found, end + len(line)
    file.seek(end)
    file.truncate()
    return head


def _append(
    path: Path, file: BinaryIO, lines: Iterator[bytes], known: Head, total: int, progress: Progress | None
) -> Head:
    head = known
    for number, line in enumerate(lines, start=known.index + 1):
        found = verify_line(line, head)
        if isinstance(found, BrokenRow):
            raise _broken(path, found, continues=number == known.index + 1 and known.index > 0)
        head = found
        file.write(line)
        if progress and number % _STEP == 0:
            progress(number, max(total, number))
    if progress:
        progress(head.index, max(head.index, 1))
    return head


def _broken(path: Path, found: BrokenRow, *, continues: bool) -> RemoteError:
    if not continues:
        return RemoteError(f"the server's log is broken: {found.problem}", hint="flprov audit verify")
    return RemoteError(
        f"the server's log does not continue {path}: {found.problem}",
        hint="the log was rewritten since; keep that file, and type: flprov audit verify",
    )


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
