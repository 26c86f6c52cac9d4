# SPDX-License-Identifier: Apache-2.0
"""What this machine can carry at all, and what a thousand sites cost flprov: measured beside the rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from phases import PROBLEMS, Run, short
from rows import MB, ROUNDS, SIZES

TLS = "tls/{size}/{sites}"


def probe(run: Run) -> None:
    """TLS and gRPC with the bytes of a round, a write to disk, a commit, a copy in memory; twice in a run."""
    import grpcprobe
    import probe as probes

    wanted: dict[str, Callable[[], float]] = {
        "tls/trip": probes.tls_trip,
        "commit": lambda: probes.commit(run.folder),
        "disk/100MB": lambda: probes.disk_write(run.folder, 100 * MB),
        "memory/100MB": lambda: probes.memory_copy(100 * MB),
    }
    for key, kept in (("grpc/100MB/2", False), ("grpc-kept/100MB/2", True)):
        wanted[key] = partial(grpcprobe.grpc_round, 100 * MB, 2, kept=kept)
    for row in ROUNDS:
        if SIZES[row.size] and row.sites == 2:
            key = TLS.format(size=row.size, sites=row.sites)
            wanted[key] = partial(probes.tls_round, SIZES[row.size], row.sites)
    kept = run.book.extra.setdefault("probes", {})
    for key, once in wanted.items():
        if key.startswith("tls/1GB") and not run.wants("round/1GB/2"):
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
