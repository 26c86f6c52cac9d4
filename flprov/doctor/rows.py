# SPDX-License-Identifier: Apache-2.0
"""Rows and verdicts: how a check says what it found."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace

from flprov.errors import FlprovError
from flprov.wire.documents import DoctorRow

Rows = tuple[DoctorRow, ...]


class Verdict(enum.Enum):
    """What a row says; later ones are worse."""

    SKIPPED = "skipped"  # there is nothing to look at, or something else has to be mended first
    OK = "ok"  # as it should be
    WARNING = "warning"  # works now; somebody should look
    PROBLEM = "problem"  # this does not work


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing to look at, in one of two ways."""

    name: str
    blocking: Callable[[], Rows] | None = None  # may hang
    awaiting: Callable[[], Awaitable[Rows]] | None = None


def ok(name: str, found: str, *, subject: str = "") -> DoctorRow:
    """It is as it should be."""
    return DoctorRow(name=name, subject=subject, verdict=Verdict.OK.value, found=found)


def warning(name: str, found: str, advice: str = "", *, subject: str = "") -> DoctorRow:
    """Somebody should look."""
    return DoctorRow(name=name, subject=subject, verdict=Verdict.WARNING.value, found=found, next=advice)


def problem(name: str, found: str, advice: str = "", *, subject: str = "") -> DoctorRow:
    """It does not work."""
    return DoctorRow(name=name, subject=subject, verdict=Verdict.PROBLEM.value, found=found, next=advice)


def skipped(name: str, found: str, advice: str = "", *, subject: str = "") -> DoctorRow:
    """It was not looked at, and why."""
    return DoctorRow(name=name, subject=subject, verdict=Verdict.SKIPPED.value, found=found, next=advice)


def from_error(name: str, error: FlprovError, *, subject: str = "") -> DoctorRow:
    """What stopped it, in the error's own words."""
    return problem(name, str(error).replace("\n", "; "), error.hint or "", subject=subject)


def soften(row: DoctorRow, why: str) -> DoctorRow:
    """A problem that does not keep the party from working."""
    if row.verdict != Verdict.PROBLEM.value:
        return row
    return replace(row, verdict=Verdict.WARNING.value, found=f"{row.found} ({why})")


def worst(rows: Iterable[DoctorRow]) -> Verdict:
    """The verdict on the whole: ok where nothing was found, or nothing could be looked at."""
    order = list(Verdict)
    found = max((order.index(Verdict(row.verdict)) for row in rows), default=0)
    return max(order[found], Verdict.OK, key=order.index)
