# SPDX-License-Identifier: Apache-2.0
"""What this machine can carry at all, and what a thousand sites cost: measured beside the rows, for flprov alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict

from phases import PROBLEMS, Run, short
from rows import MB, ROUNDS, SIZES

TLS = "tls/{size}/{sites}"


def probe(run: Run) -> None:
    """Raw TLS with the bytes of each row of rounds, a write to disk, a commit, a copy in memory; twice in a run."""
    import probe as probes

    wanted: dict[str, Callable[[], float]] = {
        "tls/trip": probes.tls_trip,
        "commit": lambda: probes.commit(run.folder),
        "disk/100MB": lambda: probes.disk_write(run.folder, 100 * MB),
        "memory/100MB": lambda: probes.memory_copy(100 * MB),
    }
    for row in ROUNDS:
        if SIZES[row.size] and row.sites == 2:
            size, sites = SIZES[row.size], row.sites
            wanted[TLS.format(size=row.size, sites=sites)] = lambda size=size, sites=sites: probes.tls_round(size, sites)  # type: ignore[misc]
    kept = run.book.extra.setdefault("probes", {})
    for key, once in wanted.items():
        if not any(pattern == "*" for pattern in run.patterns) and key == TLS.format(size="1GB", sites=2):
            continue
        try:
            value = once()
        except PROBLEMS as problem:
            print(f"probe {key}: {short(problem)}", flush=True)
            continue
        values = [*kept[key]["values"], value] if key in run.probed else [value]
        run.probed.add(key)
        kept[key] = {"median": statistics.median(values), "values": values}
        print(f"probe {key:22} {value:.4f} s", flush=True)
    run.book.save()


def herd(run: Run) -> None:
    """A thousand agents on one server: its rows come with their own definitions and targets."""
    import herd as herds

    try:
        with run.place() as folder:
            measures = herds.measure(folder)
    except PROBLEMS as problem:
        print(f"herd: {short(problem)}", flush=True)
        run.book.extra["herd"] = {"failed": short(problem)}
    else:
        run.book.extra["herd"] = {
            "measures": [asdict(m) | {"median": m.median, "verdict": m.verdict} for m in measures]
        }
    run.book.save()
