# SPDX-License-Identifier: Apache-2.0
"""`logs` in policy.yml: whether the output of jobs leaves the site, how much of it, and what is masked.

logs: {share: true, cap: 16MiB, redact: ["MRN[0-9]+", "[0-9]{3}-[0-9]{2}-[0-9]{4}"]}
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flprov.config import Section

LEAST_CAP = 64 << 10
CAP = 16 << 20
_LONGEST_PATTERN = 1000


@dataclass(frozen=True, kw_only=True)
class LogRules:
    """What of a job's output may leave the site."""

    share: bool = True
    cap: int = CAP  # bytes of each job's output that are kept, the newest
    redact: tuple[str, ...] = ()  # regular expressions; what they match leaves as `*`


def read_log_rules(section: Section | None) -> LogRules:
    """The rules in that part of the file; the default ones when there is none."""
    if section is None:
        return LogRules()
    cap = section.size("cap", CAP)
    if cap < LEAST_CAP:
        section.problem("cap", f"'cap' is {cap} bytes; the least is {LEAST_CAP >> 10}KiB")
    return LogRules(
        share=section.flag("share", default=True), cap=max(cap, LEAST_CAP), redact=_read_patterns(section)
    )


def _read_patterns(section: Section) -> tuple[str, ...]:
    patterns = section.texts("redact", ())
    for pattern in patterns:
        mistake = _mistake_of(pattern)
        if mistake:
            section.problem("redact", f"'redact' has {pattern!r}, which {mistake}", item=pattern)
    return tuple(patterns)


def _mistake_of(pattern: str) -> str:
    if not pattern or "\n" in pattern or len(pattern) > _LONGEST_PATTERN:
        return f"is no pattern: one line of 1 to {_LONGEST_PATTERN} characters"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is no regular expression: {error}"
    return ""
