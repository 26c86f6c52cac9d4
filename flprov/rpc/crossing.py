# SPDX-License-Identifier: Apache-2.0
"""How an error crosses from one process to another, whatever carries it.

What was local there is remote here, so LocalError and its kin become RemoteError. Text from the other
side is cut, and cleaned of what would drive a terminal.
"""

from __future__ import annotations

import unicodedata

from flprov._base import dataclass
from flprov.errors import ConfigError, FlprovError, LocalError, RemoteError, error_class

_MESSAGE_LIMIT, _HINT_LIMIT = 4000, 1000  # bytes; both fit into the metadata of a call
_CUT = " [...]"


@dataclass(frozen=True, kw_only=True)
class Report:
    """An error as it travels."""

    code: str  # the class
    message: bytes
    hint: bytes = b""


def to_report(error: FlprovError) -> Report:
    """What to send of an error: never its cause, never a trace."""
    return Report(
        code=error.code,
        message=cut_text(str(error), _MESSAGE_LIMIT),
        hint=cut_text(error.hint or "", _HINT_LIMIT),
    )


def from_report(report: Report) -> FlprovError:
    """The error that the other side reports, to be raised here."""
    kind = error_class(report.code)
    if issubclass(kind, LocalError):
        kind = RemoteError
    message = clean_text(report.message) or "the other side gave no reason"
    hint = clean_text(report.hint) or None
    if issubclass(kind, ConfigError):
        return kind(message.split("\n"), hint=hint)
    return kind(message, hint=hint)


def clean_text(data: bytes | str) -> str:
    """Text from the other side without what moves a cursor, sets a colour or turns the direction."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    if text.isascii() and text.isprintable():  # as nearly all are, a hundred in each heartbeat
        return text
    return "".join(c if c == "\n" or not unicodedata.category(c).startswith("C") else "?" for c in text)


def cut_text(text: str, limit: int) -> bytes:
    """`text` in UTF-8, in at most `limit` bytes; a cut is visible and never inside a character."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data
    return data[: limit - len(_CUT)].decode("utf-8", "ignore").encode() + _CUT.encode()
