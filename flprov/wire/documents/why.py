# SPDX-License-Identifier: Apache-2.0
"""What `site why` prints."""

from __future__ import annotations

from dataclasses import dataclass

from flprov.wire.documents.jobs import Cause, Seen


@dataclass(frozen=True, kw_only=True)
class SiteWhyDocument:
    """`site why --json`: what keeps a site from running jobs, and the next thing to type."""

    name: str
    state: str  # as in SiteDocument
    answer: str  # one sentence
    causes: tuple[Cause, ...] = ()  # everything that stands in the way, what began first comes first
    hint: str = ""
    seen: tuple[Seen, ...] = ()  # the last heartbeat, the last link, its clock
