# SPDX-License-Identifier: Apache-2.0
"""What a simulation leaves: the files that `job download` brings of a job on a network."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from flprov.admin.plots import draw_metrics
from flprov.errors import FlprovError
from flprov.server.jobs.results import metrics_json, record_json
from flprov.server.records import BlobRef
from flprov.server.series import FILE
from flprov.simulator.hosts import Host
from flprov.simulator.run import SimulatedRun
from flprov.simulator.scratch import ScratchBlobs
from flprov.simulator.seats import LOGS
from flprov.workers import log_start, read_log

_PIECE = 1 << 20


async def write_results(
    run: SimulatedRun, blobs: ScratchBlobs, hosts: Mapping[str, Host], output: Path
) -> list[Path]:
    """Write everything of a job that has ended into the folder `output`; the files."""
    return await asyncio.to_thread(lambda: list(_write(run, blobs, hosts, output)))


def _write(
    run: SimulatedRun, blobs: ScratchBlobs, hosts: Mapping[str, Host], output: Path
) -> Iterator[Path]:
    (output / LOGS).mkdir(parents=True, exist_ok=True)
    for name, ref in sorted(run.record.results.items()):
        yield _write_result(ref, blobs, output / name)
    metrics = output / "metrics.json"
    metrics.write_bytes(metrics_json(run, run.closed))
    yield metrics
    record = output / "record.json"
    record.write_bytes(record_json(run, run.closed))
    yield record
    series = run.series.path(run.record.id)
    if series.is_file():
        yield Path(shutil.move(series, output / FILE))
    yield from _write_logs(run, hosts, output / LOGS)
    yield from _draw(metrics, output / "metrics.png")


def _write_result(ref: BlobRef, blobs: ScratchBlobs, target: Path) -> Path:
    if ref.digest:
        shutil.move(blobs.path(ref.digest), target)
        target.chmod(0o644)
    else:
        target.write_bytes(bytes.fromhex(ref.inline))
    return target


def _write_logs(run: SimulatedRun, hosts: Mapping[str, Host], folder: Path) -> Iterator[Path]:
    for site, host in sorted(hosts.items()):
        own = host.order.folder / "out" / LOGS / f"{site}.log"
        target = folder / f"{site}.log"
        if own.is_file() and own.stat().st_size:
            yield Path(shutil.move(own, target))
        elif not (own.parent.is_dir()) and _copy_segments(host.order.folder / "log", target):
            yield target
    server = folder / "server.log"
    _copy_segments(run.workflow.log, server)
    server.touch()
    yield server


def _copy_segments(log: Path, target: Path) -> bool:
    """Whether there was anything."""
    at = log_start(log)
    data = f"[flprov: {at} bytes were dropped]\n".encode() if at else b""
    while True:
        found, more = read_log(log, at, _PIECE)
        data += more
        at = found + len(more)
        if not more:
            break
    if data:
        target.write_bytes(data)
    return bool(data)


def _draw(metrics: Path, target: Path) -> Iterator[Path]:
    import json

    try:
        target.write_bytes(draw_metrics(json.loads(metrics.read_bytes())))
        yield target
    except FlprovError:  # a picture is no reason to fail: everything else is here
        return
