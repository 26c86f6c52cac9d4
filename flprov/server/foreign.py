# SPDX-License-Identifier: Apache-2.0
"""What others say of themselves, made safe to keep and to show: bounded, finite, without control characters.

A site's words stand in records, in the log and in the documents that every admin's `status` is made of.
One site that sends infinity or a megabyte of notes must not be able to break those for all.
"""

from __future__ import annotations

from flprov._base import from_document, parse_json
from flprov.errors import ProtocolError
from flprov.rpc import clean_text
from flprov.wire.documents import SiteOffer, Vitals

CODE = 64  # characters of an error's code
REASON = 2_000  # of a message
TRACEBACK = 20_000

_MOST_VITALS = 64 << 10  # bytes; eight GPUs with their processes take 4 KiB
_MOST_ITEMS = 1_000  # of any one list
_LONGEST = 500  # characters of any one text
_LARGEST = 1 << 63


def foreign_text(text: str, most: int) -> str:
    """A peer's text with its lines, in at most `most` characters."""
    return clean_text(text[:most])


def foreign_line(text: str, most: int = REASON) -> str:
    """A peer's text as one line: it cannot look like two rows of a table."""
    return foreign_text(text, most).replace("\n", " ")


def read_vitals(data: bytes) -> Vitals:
    """A heartbeat's document.

    Raises:
        ProtocolError: it is none, too large, or holds a number that no machine reports.
    """
    if len(data) > _MOST_VITALS:
        raise ProtocolError(f"a heartbeat has {len(data)} bytes; at most {_MOST_VITALS} are read")
    try:
        return from_document(Vitals, _bounded(parse_json(data)))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a heartbeat cannot be read: {foreign_line(str(error), 200)}") from error


def read_probe(data: bytes) -> SiteOffer:
    """What a site says of its room for a job.

    Raises:
        ProtocolError: as for `read_vitals`.
    """
    if len(data) > _MOST_VITALS:
        raise ProtocolError(f"an answer to a probe has {len(data)} bytes; at most {_MOST_VITALS} are read")
    try:
        return from_document(SiteOffer, _bounded(parse_json(data)))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(
            f"an answer to a probe cannot be read: {foreign_line(str(error), 200)}"
        ) from error


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return foreign_line(value, _LONGEST)
    if isinstance(value, int) and not 0 <= value < _LARGEST:
        raise ValueError("a whole number is negative or beyond 63 bits")
    if isinstance(value, list | dict) and len(value) > _MOST_ITEMS:
        raise ValueError(f"a list has {len(value)} items; at most {_MOST_ITEMS} are read")
    if isinstance(value, list):
        return [_bounded(item) for item in value]
    if isinstance(value, dict):
        return {foreign_line(key, _LONGEST): _bounded(item) for key, item in value.items()}
    return value
