# SPDX-License-Identifier: Apache-2.0
"""The numbers that jobs tell: a bounded, append-only file per job, followed live. Telemetry, not the log."""

from __future__ import annotations

from flprov.server.series.book import SeriesBook
from flprov.server.series.file import FILE, MOST_PER_JOB, MOST_PER_SITE

__all__ = ["FILE", "MOST_PER_JOB", "MOST_PER_SITE", "SeriesBook"]
