# SPDX-License-Identifier: Apache-2.0
"""A job's series file: every number that it told while it ran and after its rounds, a line of JSON each.

    {"kind": "job", ...}      once, first: what the job is
    {"kind": "point", ...}    a number, of one site, or of the job as a whole when `site` is empty
    {"kind": "sent", ...}     how far a site's points are written: whoever sends some again is told so
    {"kind": "full", ...}     a site has as many points as are kept; the rest of them are dropped
    {"kind": "end", ...}      once, last: how the job ended

Readers pass over kinds that they do not know, and half a line at the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flprov._base import from_document, parse_json, to_document

LIVE, ROUND = "live", "round"  # where a point comes from: told while it ran, or a metric of a round


@dataclass(frozen=True, kw_only=True)
class SeriesJob:
    """The first line."""

    job_id: str
    name: str
    submitted_by: str
    submitted_at: str  # ISO 8601
    sites: tuple[str, ...]
    params: Mapping[str, str] = field(default_factory=dict)  # of job.yml, as text


@dataclass(frozen=True, kw_only=True)
class SeriesPoint:
    """One number.

    `step` of a round's metric is the number of rounds done; of a live one what the job said, or a count.
    """

    name: str
    value: float
    step: int
    at: float  # seconds since 1970
    site: str = ""  # empty: of the job as a whole
    round: int = 0  # 0-based
    task: str = ""
    origin: str = LIVE


@dataclass(frozen=True, kw_only=True)
class SeriesSent:
    """Everything of `source` before `next` is written."""

    site: str
    source: str
    next: int


@dataclass(frozen=True, kw_only=True)
class SeriesFull:
    """No more points of this site are kept."""

    site: str
    points: int


@dataclass(frozen=True, kw_only=True)
class SeriesEnd:
    """The last line."""

    state: str


SeriesLine = SeriesJob | SeriesPoint | SeriesSent | SeriesFull | SeriesEnd

_KINDS: Mapping[str, type[SeriesLine]] = {
    "job": SeriesJob,
    "point": SeriesPoint,
    "sent": SeriesSent,
    "full": SeriesFull,
    "end": SeriesEnd,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode_series(line: SeriesLine) -> bytes:
    """One line, with its end."""
    document = {"kind": _NAMES[type(line)], **to_document(line)}
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def read_series(data: bytes) -> Iterator[SeriesLine]:
    """The lines in `data` that can be read; what is none of ours is passed over."""
    for text in data.split(b"\n"):
        if (line := _read_line(text)) is not None:
            yield line


def _read_line(text: bytes) -> SeriesLine | None:
    try:
        document = parse_json(text) if text else None
        kind = _KINDS.get(document.pop("kind", "")) if isinstance(document, dict) else None
        return None if kind is None else from_document(kind, document)
    except (ValueError, TypeError, RecursionError):
        return None
