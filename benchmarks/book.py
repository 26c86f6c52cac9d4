# SPDX-License-Identifier: Apache-2.0
"""What has been measured: a cell for each row and system, kept in bench.json after every one of them.

A run that takes some rows or systems replaces their cells and leaves the others, each with its own moment.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from report import machine, show
from rows import ROWS, Row

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row on one system: numbers, or why there are none."""

    at: str  # when
    values: tuple[float, ...] = ()
    rss: float | None = None  # of a row of memory: VmHWM, in MB
    note: str = ""
    failed: str = ""  # it was tried: what happened
    not_run: str = ""  # it was not: why

    @property
    def median(self) -> float | None:
        """What is shown and compared; None without numbers."""
        return statistics.median(self.values) if self.values else None


class Book:
    """The cells, on disk in `folder`/bench.json."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bench.json"
        self._fresh: set[tuple[str, str]] = set()  # what this run has begun to measure
        folder.mkdir(parents=True, exist_ok=True)
        document = json.loads(self.path.read_text()) if self.path.exists() else {}
        known = document if document.get("format") == FORMAT else {}
        self.head: dict[str, Any] = known.get("head", {})
        self.extra: dict[str, Any] = known.get("extra", {})  # what belongs to no row: probes, settings
        self.cells: dict[str, dict[str, Cell]] = {
            key: {system: Cell(**_tuples(cell)) for system, cell in cells.items()}
            for key, cells in known.get("cells", {}).items()
        }

    def begin(self, command: str, versions: Mapping[str, str]) -> None:
        """Note how this run was made."""
        self.head |= {"machine": machine(), "command": command, "load_before": round(os.getloadavg()[0], 2)}
        self.head["versions"] = self.head.get("versions", {}) | dict(versions)
        self.save()

    def add(
        self, key: str, system: str, values: Sequence[float], *, rss: float = 0.0, note: str = ""
    ) -> None:
        """Numbers of this run; more of them join those of its earlier turns."""
        before = self.cells.get(key, {}).get(system) if (key, system) in self._fresh else None
        earlier = before.values if before else ()
        most = max(rss, before.rss or 0.0) if before else rss
        self._put(key, system, Cell(at=_now(), values=(*earlier, *values), rss=most or None, note=note))

    def fail(self, key: str, system: str, reason: str) -> None:
        """It was tried."""
        self._put(key, system, Cell(at=_now(), failed=reason))

    def leave_out(self, key: str, system: str, reason: str) -> None:
        """It was not tried."""
        self._put(key, system, Cell(at=_now(), not_run=reason))

    def _put(self, key: str, system: str, cell: Cell) -> None:
        self._fresh.add((key, system))
        self.cells.setdefault(key, {})[system] = cell
        self.save()
        unit = ROWS[key].unit if key in ROWS else "s"
        said = cell.failed or cell.not_run or show(cell.median or 0.0, unit)
        print(f"{key:28} {system:7} {said}", flush=True)

    def median(self, key: str, system: str) -> float | None:
        """Of a cell that may not be there."""
        cell = self.cells.get(key, {}).get(system)
        return cell.median if cell else None

    def save(self) -> None:
        """Whole or not at all: an interrupted run leaves the file of before."""
        document = {
            "format": FORMAT,
            "head": self.head,
            "cells": {
                key: {system: _spare(cell) for system, cell in cells.items()}
                for key, cells in sorted(self.cells.items())
            },
            "extra": self.extra,
        }
        partial = self.path.with_suffix(".part")
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(self.path)


def verdict(row: Row, cells: Mapping[str, Cell]) -> str:
    """Of flprov: its target, then how it stands beside the faster of its peers."""
    ours = cells["flprov"].median if "flprov" in cells else None
    if ours is None:
        return "-"
    words = [] if row.target is None else ["met" if ours <= row.target else "MISSED"]
    best = best_peer(cells)
    if best is not None:
        words.append("ahead" if ours < best else "behind")
    return ", ".join(words) or "-"


def best_peer(cells: Mapping[str, Cell]) -> float | None:
    """The least median of those that are not flprov."""
    medians = [cell.median for system, cell in cells.items() if system != "flprov"]
    return min((median for median in medians if median is not None), default=None)


def _spare(cell: Cell) -> dict[str, Any]:
    full = {key: value for key, value in asdict(cell).items() if value not in ("", None, ())}
    if "values" in full:
        full = {"median": cell.median} | full | {"values": [round(value, 6) for value in cell.values]}
    return full


def _tuples(cell: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in cell.items() if key != "median"}
    return kept | {"values": tuple(kept.get("values", ()))}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
