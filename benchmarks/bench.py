#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""flprov beside NVIDIA FLARE and Flower, on this machine, in one run: `make bench`. See docs/benchmarks.md.

    python benchmarks/bench.py [--only SYSTEM] [--rows PATTERN] [--quick] [--runs N] [-o benchmarks/results]

Phase by phase the systems take turns, flprov before and after its peers, so that a machine that drifts does
so for all. Results are kept after every row; what is not measured again stays as it was.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import limits
import phases
from book import Book, verdict
from plots import draw_all
from rows import NETWORKS, ROWS, SYSTEMS
from systems.flare import Flare
from systems.flower import Flower
from systems.ours import Ours
from systems.system import System
from table import write_table

HERE = Path(__file__).resolve().parent
PARTS = (*SYSTEMS, "probe", "herd")
QUICK = ("help", "start/2", "status", "first/*", "round/*/2", "memory/100MB/2/*", "abort", "simulate/8x10")
QUICK_LEAVES = ("round/1GB/2", "round/empty/2/short-polls")


def main() -> int:
    """Measure and write; 1 when a target is missed or a peer is ahead."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    only = options.only or (("flprov", "probe") if options.quick else PARTS)
    systems = [system for system in (Ours(), Flare(), Flower()) if system.name in only]
    book = Book(options.output)
    book.begin(_command(), {system.name: system.version() for system in systems})
    book.extra["settings"] = book.extra.get("settings", {}) | {s.name: list(s.settings) for s in systems}
    patterns = tuple(options.rows or (QUICK if options.quick else ("*",)))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flprov-bench-", ignore_cleanup_errors=True) as name:
        leaves = QUICK_LEAVES if options.quick else ()
        run = phases.Run(book=book, folder=Path(name), patterns=patterns, leaves=leaves)
        try:
            _measure(run, systems, only, options.runs)
        except KeyboardInterrupt:
            print("interrupted; what was measured is kept", file=sys.stderr)
        finally:
            draw_all(book, options.output)
            table = write_table(book, options.output)
    print(f"\n{table.read_text()}\n{table}, after {time.monotonic() - began:.0f} s")
    verdicts = [verdict(ROWS[key], cells) for key, cells in book.cells.items() if key in ROWS]
    return int(any("MISSED" in one or "behind" in one for one in verdicts))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="flprov beside NVIDIA FLARE and Flower.")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this; may be repeated")
    parser.add_argument(
        "--rows", action="append", metavar="PATTERN", help="such as 'round/*/2'; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="some minutes: flprov and the probes, two sites")
    parser.add_argument(
        "--runs", type=int, default=2, help="turns of flprov at two sites; its peers have one"
    )
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results")
    return parser.parse_args()


def _measure(run: phases.Run, systems: list[System], only: tuple[str, ...], runs: int) -> None:
    if "probe" in only:
        limits.probe(run)
    take_turns(systems, runs, partial(phases.commands, run))
    for sites in NETWORKS:
        take_turns(systems, runs if sites == NETWORKS[0] else 1, partial(phases.network, run, sites))
    take_turns(systems, 1, partial(phases.simulation, run))
    if "probe" in only:
        limits.probe(run)
    if "herd" in only:
        limits.herd(run)


def take_turns(systems: list[System], runs: int, turn: Callable[[System], None]) -> None:
    """flprov, its peers once, and flprov again as often as it has runs left."""
    ours = [system for system in systems if system.name == "flprov"]
    peers = [system for system in systems if system.name != "flprov"]
    for system in (*ours, *peers, *(ours * (runs - 1))):
        turn(system)


def _command() -> str:
    return " ".join(["python benchmarks/bench.py", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
