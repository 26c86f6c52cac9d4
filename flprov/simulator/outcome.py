# SPDX-License-Identifier: Apache-2.0
"""What a simulation leaves: the files that `job download` brings of a job on a network."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from flprov.errors import LocalError
from flprov.server import SimulatedRun, write_run_files
from flprov.simulator.drawing import Drawing
from flprov.simulator.hosts import Host
from flprov.workers import SEAT_LOGS, log_start, read_log

_PIECE = 1 << 20
_LOGS = "logs"


def make_output(output: Path) -> None:
    """Make the folder `output`, before a job runs whose results would find no place.

    Raises:
        LocalError: it cannot be made.
    """
    try:
        (output / _LOGS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(
            f"results cannot be written to {output}: {error.strerror}", hint="name another folder with -o"
        ) from error


async def write_results(
    run: SimulatedRun, hosts: Mapping[str, Host], output: Path, drawing: Drawing
) -> list[Path]:
    """Write everything of a job that has ended into the folder `output`, which is there; the files."""
    files = await asyncio.to_thread(lambda: list(_write(run, hosts, output)))
    if picture := await drawing.finish():
        files.append(output / "metrics.png")
        files[-1].write_bytes(picture)
    return files


def _write(run: SimulatedRun, hosts: Mapping[str, Host], output: Path) -> Iterator[Path]:
    yield from write_run_files(run, output)
    yield from _write_logs(run, hosts, output / _LOGS)


def _write_logs(run: SimulatedRun, hosts: Mapping[str, Host], folder: Path) -> Iterator[Path]:
    for site, host in sorted(hosts.items()):
        own = host.folder / "out" / SEAT_LOGS / f"{site}.log"
        target = folder / f"{site}.log"
        if own.is_file() and own.stat().st_size:
            yield Path(shutil.move(own, target))
        elif not (own.parent.is_dir()) and _copy_segments(host.folder / "log", target):
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
